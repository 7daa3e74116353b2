"""What happens in a round: drawn from a seed, so that a round can be run again."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asgi_ipc import IPCChannelLayer

#: The engines that are stressed; ``sqlite`` is the one of ``examples/third_party_engine``.
ENGINES = ("posix", "memory", "sqlite")
_EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "third_party_engine"
#: Ordinary channels and groups, by number. A process-specific channel gets one from `OWN` on.
CHANNELS = 4
GROUPS = range(8, 10)
OWN = 16

#: Every kind of habitat (`habitats`); those that this Python lacks are left out.
KINDS = (
    ("asyncio", "uvloop", "anyio", "sync", "raw")
    + (("taskgroup",) if sys.version_info >= (3, 11) else ())
    + (("eager",) if sys.version_info >= (3, 12) else ())
)
#: What may be going on besides sending and receiving, and how often a round has it.
FEATURES = {
    "abandon": 0.35,
    "close": 0.2,
    "destroy": 0.1,
    "finalizers": 0.35,
    "flush": 0.15,
    "fork": 0.3,
    "handlers": 0.2,
    "held_up": 0.25,
    "logging": 0.3,
    "twins": 0.25,
}
#: Features after which a loss has an excuse, or a receiver needs the regular look.
_EXCUSING = frozenset({"close", "destroy", "flush", "handlers"})


class Plan(NamedTuple):
    """One round."""

    seed: int
    number: int
    engine: str
    #: Seconds of work, before the draining.
    seconds: float
    processes: int
    #: Kinds of the habitats of each process; the first lasts for the whole round.
    kinds: tuple[str, ...]
    #: Most unread messages of an ordinary channel, and of a process-specific queue.
    capacity: int
    own_capacity: int
    layers: int
    features: tuple[str, ...]
    gc_threshold: int
    switch_interval: float
    #: The name of a fault that the workers shall have (`plants`), or ``""``.
    plant: str = ""

    @property
    def patient(self) -> bool:
        """Whether nothing may have to wait for the regular look: then it never comes, and a
        wake-up that is lost is never made good for."""
        return not {"destroy", "finalizers", "handlers"} & set(self.features)

    def has(self, feature: str) -> bool:
        """Whether something goes on in this round."""
        return feature in self.features

    def dice(self, *path: object) -> random.Random:
        """Dice for a part of the round, the same each time."""
        return random.Random(f"{self.seed} {self.number} {path}")

    def dump(self, folder: Path) -> None:
        """Write the plan to the folder of its round."""
        (folder / "plan.json").write_text(json.dumps(self._asdict()))

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan from the folder of its round."""
        fields = json.loads((folder / "plan.json").read_text())
        fields["kinds"], fields["features"] = tuple(fields["kinds"]), tuple(fields["features"])
        return cls(**fields)

    def options(self, folder: Path) -> dict[str, Any]:
        """The options of the round's layers."""
        options: dict[str, Any] = {
            "prefix": "stress",
            "engine": self.engine,
            "channel_memory": 64 << 20,
            "group_memory": 4 << 20,
            "expiry": 3600,
            "capacity": self.capacity,
            "channel_capacity": {"*!*": self.own_capacity},
        }
        if self.engine == "sqlite":
            options["engine"] = sqlite_engine()
        if self.engine != "memory":
            options["engine_options"] = {"directory": str(folder / "store")}
        return options

    def __str__(self) -> str:
        what = "; ".join(
            (
                f"{self.processes} processes of {', '.join(self.kinds)}",
                f"capacity {self.capacity}, own {self.own_capacity}",
                f"{self.layers} layers",
                f"with {', '.join(self.features) or 'nothing else'}",
                f"gc {self.gc_threshold}, switch {self.switch_interval:g} s",
            )
        )
        return f"{self.engine} round {self.number}: {what}"


def draw(
    seed: int,
    number: int,
    engine: str,
    seconds: float,
    features: Sequence[str] | None = None,
) -> Plan:
    """Plan a round. ``features``: just these, instead of some by chance."""
    dice = random.Random(f"{seed} {number} {engine}")
    kinds = [dice.choice(KINDS) for _ in range(dice.randint(2, 4))]
    # The one that lasts must be able to wait without a timeout for each of its channels.
    kinds[0] = dice.choice([kind for kind in KINDS if kind not in {"sync", "raw"}])
    excusing = dice.random() < 0.5
    drawn = [
        name
        for name, often in sorted(FEATURES.items())
        if dice.random() < (2 * often if name in _EXCUSING else often)
        and (excusing or name not in _EXCUSING)
    ]
    if features is not None:
        drawn = [*features]
    if engine != "memory" and "twins" in drawn:
        drawn.remove("twins")
    return Plan(
        seed,
        number,
        engine,
        seconds,
        1 if engine == "memory" else dice.choice((1, 2, 2)),
        tuple(kinds),
        dice.choice((5, 100, 100)),
        dice.choice((5, 100, 100, 100_000, 100_000)),
        dice.randint(1, 3),
        tuple(drawn),
        dice.choice((700, 700, 100, 10, 1)),
        dice.choice((0.005, 0.005, 1e-4, 1e-6)),
    )


def sqlite_engine() -> Any:
    """The class of the example, which is installed nowhere."""
    if str(_EXAMPLE) not in sys.path:
        sys.path.insert(0, str(_EXAMPLE))
    from asgi_ipc_sqlite import SQLiteEngine

    return SQLiteEngine


def make_layers(plan: Plan, folder: Path) -> list[IPCChannelLayer]:
    """The layers of a process; all but a forked child's share what it has of the store."""
    options = plan.options(folder)
    layers = [IPCChannelLayer(**options) for _ in range(plan.layers)]
    if plan.has("twins"):
        from asgi_ipc.engines.memory import MemoryEngine

        sizes = {key: options[key] for key in ("channel_memory", "group_memory")}
        layers.append(
            IPCChannelLayer(**{**options, "engine": MemoryEngine(options["prefix"], **sizes)})
        )
    return layers
