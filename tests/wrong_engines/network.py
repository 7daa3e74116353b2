"""Engines that get their server wrong, clauses E33 and E34."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from asgi_ipc.exceptions import OutcomeUnknown, StoreUnavailable
from tests.tools.network_engine import NetworkEngine


class WrongOverANetwork(NetworkEngine):
    """Breaks what it says."""

    breaks: ClassVar[str]


class RepeatsCalls(WrongOverANetwork):
    """As client libraries do by default."""

    breaks = "E33"

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        for _ in range(2):
            try:
                return super()._ask(method, arguments, identity)
            except StoreUnavailable:
                pass
        return super()._ask(method, arguments, identity)


class TellsNothingApart(WrongOverANetwork):
    breaks = "E33"

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        try:
            return super()._ask(method, arguments, identity)
        except OutcomeUnknown as error:
            raise StoreUnavailable(str(error)) from error


class NeverComesBack(WrongOverANetwork):
    breaks = "E33"
    broken = False

    def _hang_up(self) -> None:
        self.broken = True
        super()._hang_up()

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        if self.broken:
            raise StoreUnavailable("the connection has ended")
        return super()._ask(method, arguments, identity)


class ShowsWhatItsSocketRaises(WrongOverANetwork):
    breaks = "E33"

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        try:
            return super()._ask(method, arguments, identity)
        except StoreUnavailable as error:
            raise error.__cause__ or error from None


class SaysNothingOfItsLapses(WrongOverANetwork):
    breaks = "E34"

    @property
    def lapses(self) -> int:
        return 0


class SaysNothingWhileIdle(WrongOverANetwork):
    breaks = "E34"

    def _beat(self) -> None:
        """Do nothing."""
