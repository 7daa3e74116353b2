"""Wires that get topics wrong, clauses W5 to W9."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from asgi_ipc.exceptions import WireLost
from asgi_ipc.relay.nats import NatsWire
from asgi_ipc.relay.wire import Frame
from tests.wrong_wires import Wrong, WrongOnANetwork


class HearsTwice(Wrong):
    breaks = "W5"

    def deliver(self, topic: bytes, payload: bytes, lag: float) -> None:
        super().deliver(topic, payload, lag)
        if len(payload) % 7 == 1:
            super().deliver(topic, payload, lag)


class HearsNotItself(Wrong):
    breaks = "W5"

    async def publish(self, frames: Sequence[Frame]) -> None:
        topics, self.topics = self.topics, frozenset()
        await super().publish(frames)
        self.topics = topics


class StripsLines(Wrong):
    breaks = "W5"

    async def publish(self, frames: Sequence[Frame]) -> None:
        await super().publish([Frame(topic, payload.strip()) for topic, payload in frames])


class HearsOtherPrefixes(Wrong):
    breaks = "W5"

    @property
    def prefix(self) -> str:
        """Of all, the same."""
        return "x"

    @prefix.setter
    def prefix(self, value: str) -> None:
        pass


class SendsBeforeItRefuses(Wrong):
    breaks = "W5"

    async def publish(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            await super().publish([frame])


class SendsTopicsApart(Wrong):
    """As one would that has a connection for each topic."""

    breaks = "W6"

    async def publish(self, frames: Sequence[Frame]) -> None:
        await super().publish(sorted(frames, key=lambda frame: frame.topic))


class SendsBatchesAtOnce(Wrong):
    breaks = "W6"

    async def publish(self, frames: Sequence[Frame]) -> None:
        if len(frames) > 50:
            asyncio.get_running_loop().call_later(0.002, lambda: self._server.publish(self, frames))
        else:
            await super().publish(frames)


class ConfirmsTooEarly(Wrong):
    breaks = "W7"

    async def subscribe(self, topics: Collection[bytes]) -> None:
        self._state.check()
        asyncio.get_running_loop().call_later(
            0.01, lambda: self._set_topics(self.topics | frozenset(topics))
        )


class ConfirmsBeforeTheServer(WrongOnANetwork):
    """As one would whose ping goes out ahead of what it confirms."""

    breaks = "W7"

    async def _confirmed(self, lines: list[bytes]) -> None:
        await super()._confirmed([])
        asyncio.get_running_loop().call_soon(self._connections[1].send, b"".join(lines))


class UnsubscribesLate(Wrong):
    breaks = "W7"

    async def unsubscribe(self, topics: Collection[bytes]) -> None:
        asyncio.get_running_loop().call_later(
            0.01, lambda: self._set_topics(self.topics - frozenset(topics))
        )


class CountsSubscriptions(Wrong):
    breaks = "W7"

    async def subscribe(self, topics: Collection[bytes]) -> None:
        counts = self.__dict__.setdefault("counts", {})
        for topic in topics:
            counts[topic] = counts.get(topic, 0) + 1
        await super().subscribe(topics)

    def deliver(self, topic: bytes, payload: bytes, lag: float) -> None:
        for _ in range(self.__dict__["counts"][topic]):
            super().deliver(topic, payload, lag)


class SendsAgainAfterTheLoss(WrongOnANetwork):
    """As a client library does that tries again."""

    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        try:
            await super().publish(frames)
        except WireLost:
            other = NatsWire(self._state.shown, self._name.partition(" ")[2])
            await other.start(lambda topic, payload: None)
            await other.publish(frames)
            await other._confirmed([])
            await other.close()
            raise


class WaitsForNothing(WrongOnANetwork):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        self._window._bytes = -(1 << 40)
        await super().publish(frames)


class ForgetsWhatEarlierCallsHaveSent(WrongOnANetwork):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        self._window._bytes = 0
        await super().publish(frames)


class SaysThatAllWasSent(WrongOnANetwork):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        self._state.check(unsent=len(frames))
        try:
            await super().publish(frames)
        except WireLost as error:
            raise WireLost(str(error)) from None


class SaysThatAllWasSentOnceItIsClosed(WrongOnANetwork):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        try:
            await super().publish(frames)
        except WireLost as error:
            if "closed" not in str(error):
                raise
            raise WireLost(str(error)) from None


class SaysThatNothingWasSent(Wrong):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        try:
            await super().publish(frames)
        except WireLost as error:
            raise WireLost(str(error), unsent=len(frames)) from None


class SaysNothingOfTheRest(Wrong):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        try:
            await super().publish(frames)
        except WireLost as error:
            raise WireLost(str(error)) from None


class TakesFramesOfAnySize(Wrong):
    breaks = "W8"

    async def publish(self, frames: Sequence[Frame]) -> None:
        await super().publish([Frame(topic, payload[: 1 << 20]) for topic, payload in frames])


class StopsHearingAtAnError(Wrong):
    breaks = "W9"

    def _hear_what_has_come(self) -> None:
        if not self.__dict__.get("broken"):
            call = self._state._call

            def careless(function: object, *arguments: bytes) -> None:
                try:
                    function(*arguments)  # type: ignore[operator]
                except Exception:
                    self.__dict__["broken"] = True
                    raise

            self._state._call = careless  # type: ignore[method-assign]
            try:
                super()._hear_what_has_come()
            finally:
                self._state._call = call  # type: ignore[method-assign]


class EndsWithACancelledCall(Wrong):
    breaks = "W9"

    async def subscribe(self, topics: Collection[bytes]) -> None:
        try:
            await super().subscribe(topics)
        except asyncio.CancelledError:
            await self.close()
            raise
