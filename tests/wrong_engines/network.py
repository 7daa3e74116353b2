"""Engines that get their server wrong, clauses E33 and E34."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from asgi_ipc.engines.base import IDENTITY_BYTES, Record, Refused
from asgi_ipc.exceptions import OutcomeUnknown, StoreUnavailable
from tests.tools.network_engine import NetworkEngine, WakingNetworkEngine
from tests.tools.network_server import packed


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


class WaitsWhileItConnects(WrongOverANetwork):
    """For as long as the server takes to greet it."""

    breaks = "E33"

    def _ask(self, method: str, arguments: Sequence[Any], identity: bytes) -> Any:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=3600.0)
            self._greet(self._socket)
        return super()._ask(method, arguments, identity)

    def _greet(self, connection: socket.socket) -> None:
        connection.sendall(packed([self._prefix, os.urandom(IDENTITY_BYTES), "beat", []]))
        try:
            self._read(connection)
        except (OSError, ValueError) as error:
            self._hang_up()
            raise StoreUnavailable("the server did not greet") from error
        connection.settimeout(self._timeout)


class WrongAtHearing(WakingNetworkEngine):
    """Breaks what it says."""

    breaks: ClassVar[str]


class DeafAfterAReconnect(WrongAtHearing):
    """Does not look for what was pushed meanwhile."""

    breaks = "E33"

    def signal_all(self) -> None:
        """Do nothing."""


class CarriesOutLate(NetworkEngine):
    """Breaks nothing: some calls are lost from sight and carried out after later ones."""

    calls = 0

    def push(self, records: Sequence[Record]) -> list[Refused]:
        self.calls += 1
        if self.calls % 50:
            return super().push(records)
        thread = threading.Timer(0.05, super().push, [records])
        thread.start()
        raise OutcomeUnknown("the server has not answered")


class SaysNothingOfItsLapses(WrongOverANetwork):
    breaks = "E34"

    @property
    def lapses(self) -> int:
        return 0


class SaysNothingWhileIdle(WrongOverANetwork):
    breaks = "E34"

    def _beat(self) -> None:
        """Do nothing."""
