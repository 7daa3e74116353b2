"""Write a relay's report while it relays: once a second, and soon after there is news (R7)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from ..engines.base import Engine
from ..exceptions import ChannelFull, StoreCorrupt, StoreUnavailable
from . import report

_log = logging.getLogger("asgi_ipc")

#: Seconds after which news is written, and between two reports for news.
_SOON, _BETWEEN = 0.02, 0.25


class ReportWriter:
    """Writes the reports of one term: regularly, and soon after there is news.

    ``content`` returns what to write, and ``failed`` is told of an error that no relay should meet.
    """

    def __init__(
        self,
        engine: Engine,
        shown: str,
        content: Callable[[], dict[str, Any]],
        failed: Callable[[str, Exception], None],
    ) -> None:
        self._engine, self._shown, self._content, self._failed = engine, shown, content, failed
        self._soon: asyncio.TimerHandle | None = None
        self._written_at = 0.0
        #: It was logged that there is no room.
        self._lacks_room = False
        self._is_over = False

    def write_soon(self) -> None:
        """Write a report soon: one for all news that come until then."""
        if self._soon is None and not self._is_over:
            wait = max(_SOON, self._written_at + _BETWEEN - time.monotonic())
            self._soon = asyncio.get_running_loop().call_later(wait, self._write_news)

    def _write_news(self) -> None:
        self._soon = None
        with contextlib.suppress(StoreUnavailable, StoreCorrupt):  # The regular work meets it.
            self.write()

    def write_last(self) -> None:
        """Write the last report of the term. Raises as `write`."""
        self._is_over = True
        if self._soon is not None:
            self._soon.cancel()
        self.write()

    def write(self) -> None:
        """Write a report. Raises `StoreUnavailable` and `StoreCorrupt`."""
        self._written_at = time.monotonic()
        try:
            report.write(self._engine, self._content())
        except ChannelFull as error:  # The next one may fit.
            if not self._lacks_room:
                self._lacks_room = True
                _log.warning(
                    "relay %s: no room for its report, so 'asgi-ipc relays' can't show how it"
                    " fares: %s",
                    self._shown,
                    error,
                )
        except (StoreUnavailable, StoreCorrupt):
            raise
        except Exception as error:
            self._failed("its report could not be written", error)
        else:
            self._lacks_room = False


__all__ = ["ReportWriter"]
