"""The supervisor: plans rounds, starts their processes, and looks whether all arrives.

Run with ``python -m tests.torture stress``. Each round is planned from the seed and its number:
``--seed S --round N`` plans the same round again. What threads and processes then make of it
differs, so a fault may take a few tries to come back.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from asgi_ipc import SyncIPCChannelLayer

from ..standstill import Standstill
from . import plants
from .judge import Books, Lost
from .notes import DRAIN, END, FINISH, RUN
from .plan import ENGINES, FEATURES, Plan, draw

#: Seconds of work of a round.
ROUND = 2.0
#: Seconds without progress, as `Standstill` counts them, after which nothing more will arrive.
STALL = 4.0
#: Seconds after which even what makes progress is given up: less than `worker.PATIENCE`.
LONGEST = 60.0
#: Rounds in which a planted fault must show.
PLANTED = 20
#: Whether the folder of a round that fails stays, with its ledgers.
KEEP = bool(os.environ.get("STRESS_KEEP"))
_ROOT = Path(__file__).resolve().parents[3]


class Outcome(NamedTuple):
    """What came of a round."""

    plan: Plan
    sent: int
    arrived: int
    faults: list[str]


class Round:
    """One round, in a folder of its own."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="asgi_ipc-stress-", dir=where))
        plan.dump(self.folder)
        self.tell(RUN)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.faults: list[str] = []

    def tell(self, stage: int) -> None:
        """Let all processes know how far the round is."""
        if not (self.folder / "stage").exists():
            (self.folder / "stage").write_bytes(bytes([stage]))
        else:
            with (self.folder / "stage").open("r+b") as file:
                file.write(bytes([stage]))

    def run(self) -> Outcome:
        """Work, drain, finish, judge."""
        try:
            self.start()
            # A process that stands still or has ended is told of when all are to end.
            for _ in self.turns(self.bytes, self.plan.seconds):
                pass
            self.tell(DRAIN)
            waited_for = self.drain()
            if waited_for:
                self.show_stacks()
            self.tell(FINISH)
            self.finish()
            books = Books(self.folder, self.plan)
            if (self.folder / "faults").exists():
                self.faults += _together((self.folder / "faults").read_text())
            self.faults += books.faults(waited_for)
            self.remove()
            return Outcome(self.plan, len(books.sent), books.got.total(), self.faults)
        finally:
            for worker in self.workers:
                worker.kill()
                worker.wait()
            if not (KEEP and self.faults):
                shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the processes, and wait until all have opened their layers."""
        module = f"{__package__}.worker"
        for index in range(self.plan.processes):
            with (self.folder / f"{index}.errors").open("wb") as errors:
                command = [sys.executable, "-m", module, str(self.folder), str(index)]
                self.workers.append(
                    # In a process group of its own: its forked children end with it.
                    subprocess.Popen(command, cwd=_ROOT, stderr=errors, start_new_session=True)
                )
        for _ in self.turns(lambda: len(list(self.folder.glob("*.ready"))), LONGEST):
            if len(list(self.folder.glob("*.ready"))) == self.plan.processes:
                return
            if any(worker.poll() is not None for worker in self.workers):
                return

    def drain(self) -> list[Lost]:
        """Wait until all has arrived that was sent; what has not, and never will."""
        missing, read = self.missing(), -1
        for _ in self.turns(self.bytes, LONGEST):
            if self.bytes() != read:
                # To read it all is as much work as to write it.
                read = self.bytes()
                missing = self.missing()
            if not missing:
                break
        return missing

    def missing(self) -> list[Lost]:
        """What has not arrived yet, and is not explained."""
        books = Books(self.folder, self.plan)
        return [each for those in books.missing().values() for each in those]

    def turns(self, progress: object, seconds: float) -> Iterator[None]:
        """Go on for so long, or until there has been no progress for too long."""
        assert callable(progress)
        still, end, before = Standstill(), time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end and still.seconds < STALL:
            yield
            time.sleep(0.03)
            now = time.monotonic()
            still.look(progress(), now - before)
            before = now

    def bytes(self) -> int:
        """How much has been written down."""
        return sum(path.stat().st_size for path in self.folder.glob("*.ledger"))

    def finish(self) -> None:
        """Wait for the processes to end; one that does not hangs."""
        for _ in self.turns(lambda: sum(w.poll() is not None for w in self.workers), LONGEST):
            if all(worker.poll() is not None for worker in self.workers):
                break
        hung = [worker for worker in self.workers if worker.poll() is None]
        if hung:
            self.show_stacks()
            self.faults.append(f"{len(hung)} processes hang, and had to be killed")
        for index, worker in enumerate(self.workers):
            if worker in hung:
                os.killpg(worker.pid, signal.SIGKILL)
            elif worker.wait():
                errors = (self.folder / f"{index}.errors").read_text()[-4000:]
                self.faults.append(f"process {index} ended with {worker.returncode}: {errors}")

    def show_stacks(self) -> None:
        """Add to the faults where all threads of all processes are."""
        for worker in self.workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGUSR1)
        time.sleep(0.5)
        for path in self.folder.glob("*.stacks"):
            threads = path.read_text().split("\n\n")
            busy = [each for each in threads if each and not _is_idle(each)]
            if busy:
                text = "\n\n".join(busy)
                self.faults.append(f"stacks of process {path.stem}:\n{text[-12_000:]}")

    def remove(self) -> None:
        """Remove the store, of which nothing may be left."""
        if self.plan.engine == "memory":
            return
        SyncIPCChannelLayer(**self.plan.options(self.folder)).destroy()
        left = self.folder / "store" / "stress"
        if left.exists():
            self.faults.append(f"destroy() left {os.listdir(left)}")


def _is_idle(stack: str) -> bool:
    """Whether a thread only waits for work that an executor may give it."""
    first = stack.splitlines()[1:2]
    return bool(first) and "concurrent/futures/thread.py" in first[0] and "_worker" in first[0]


def _together(text: str) -> list[str]:
    """Faults that processes wrote, each kind once and with its number."""
    kinds: dict[str, list[str]] = {}
    for told in text.split(END)[:-1]:
        lines = told.splitlines()
        # Which process, channel or object it was makes no other kind of it.
        kind = re.sub(r"[0-9a-f]{8,}|0x\w+|\d+", "", lines[0] + lines[-1])
        kinds.setdefault(kind, []).append(told.rstrip())
    return [f"{len(those)} times: {those[0]}" for those in kinds.values()]


def stress(
    engine: str,
    seconds: float,
    seed: int,
    first: int = 0,
    features: Sequence[str] | None = None,
    round_seconds: float = ROUND,
) -> Iterator[Outcome]:
    """Run rounds on an engine for about so long, at least one; those of a seed are alike."""
    end = time.monotonic() + seconds
    for number in itertools.count(first):
        yield Round(draw(seed, number, engine, round_seconds, features)).run()
        if time.monotonic() >= end:
            return


def caught(name: str, seed: int, rounds: int = PLANTED) -> str:
    """What is said of a fault that is planted, or ``""`` if so many rounds don't show it."""
    plant = plants.PLANTS[name]
    for number in range(rounds):
        plan = draw(seed, number, plant.engine, ROUND, plant.features)
        # As fast as it goes: a fault that shows seldom shall show soon.
        plan = plan._replace(plant=name, gc_threshold=700, switch_interval=0.005)
        for fault in Round(plan._replace(**plant.changes)).run().faults:
            if plant.shows in fault and not fault.startswith("stacks"):
                return f"round {number}: {fault}"
    return ""


def told(outcome: Outcome) -> str:
    """An outcome, for people."""
    plan = outcome.plan
    text = f"{plan} (seed {plan.seed}): {outcome.sent} sent, {outcome.arrived} arrived"
    return "\n".join([text, *(f"  FAULT: {fault}" for fault in outcome.faults)])


def _plant_all(seed: int) -> int:
    missed = 0
    for name in plants.PLANTS:
        began, said = time.monotonic(), caught(name, seed)
        missed += not said
        verdict = f"caught: {said[:120]}" if said else "MISSED"
        sys.stdout.write(f"{name}: after {time.monotonic() - began:.0f} s {verdict}\n")
        sys.stdout.flush()
    return 1 if missed else 0


def main(arguments: list[str]) -> int:
    """Called by ``python -m tests.torture stress``."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture stress", description=__doc__)
    parser.add_argument("--engine", choices=(*ENGINES, "all"), default="all")
    parser.add_argument("--seconds", type=float, default=60, help="in all, not for each engine")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--round", type=int, default=None, help="just this one of the seed")
    parser.add_argument("--features", default=None, help=f"of {', '.join(FEATURES)}; not by chance")
    parser.add_argument("--round-seconds", type=float, default=ROUND)
    parser.add_argument("--plants", action="store_true", help="plant faults, and see each found")
    parser.add_argument("--quiet", action="store_true", help="tell only of rounds that fail")
    parser.add_argument("--on", action="store_true", help="go on after a fault")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 30) if options.seed is None else options.seed
    engines = ENGINES if options.engine == "all" else (options.engine,)
    features = None if options.features is None else [f for f in options.features.split(",") if f]
    sys.stdout.write(f"seed {seed}\n")
    if options.plants:
        return _plant_all(seed)
    seconds = 0.0 if options.round is not None else options.seconds / len(engines)
    failed = False
    for engine in engines:
        rounds = sent = 0
        for outcome in stress(
            engine,
            seconds,
            seed,
            options.round or 0,
            features,
            options.round_seconds,
        ):
            rounds, sent = rounds + 1, sent + outcome.sent
            if outcome.faults or not options.quiet:
                sys.stdout.write(told(outcome) + "\n")
                sys.stdout.flush()
            if outcome.faults:
                failed = True
                if not options.on:
                    break
        sys.stdout.write(f"{engine}: {rounds} rounds, {sent} messages\n")
        sys.stdout.flush()
    return int(failed)
