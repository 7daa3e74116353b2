"""Real SIGKILL before every opcode of every operation, and of the recovery from that.

The victim is a forked child that acts in its parent's place in the store (same slot,
same clock), so that each run of it is the same up to its end. The parent puts the
memory back between two kills, and looks closely at each different state that a kill left.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import CodeType

from asgi_ipc.engines.shm.heap.layout import IDLE
from asgi_ipc.engines.shm.locks.semaphore_locks import SemaphoreLocks
from conformance.opcodes import trace_nothing, trace_opcodes

from .examine import PATIENCE, Examiner, State, Tally, command
from .steps import Scenario
from .world import Finding, View, brief

#: Unfinished states of one scenario whose recovery is killed too: others go the same way.
_MOST_SECOND = 1


def killed(operate: Callable[[], object], opcode: int, prepare: Callable[[], object]) -> bool:
    """Run an operation in a forked child that SIGKILLs itself before that opcode.

    True if it was killed, False if it came to its end first. Raises `Finding` if it hangs
    or fails.
    """
    child = os.fork()
    if not child:
        _suffer(operate, opcode, prepare)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGKILL:
            return True
        hung = os.WTERMSIG(status) == signal.SIGALRM
        raise Finding("it hangs" if hung else f"it crashed with signal {os.WTERMSIG(status)}")
    if os.WEXITSTATUS(status):
        raise Finding(f"it failed before opcode {opcode}; see its traceback")
    return False


def _suffer(operate: Callable[[], object], opcode: int, prepare: Callable[[], object]) -> None:
    """The child's part. Does not return."""
    status, left, me = 1, opcode, os.getpid()

    def count(code: CodeType, offset: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(me, signal.SIGKILL)

    try:
        gc.disable()
        signal.alarm(PATIENCE)
        prepare()
        trace_opcodes(count)
        operate()
        trace_nothing()
        status = 0
    except BaseException:
        trace_nothing()
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Torturer(Examiner):
    """Kills on one engine."""

    ends = "kills"

    def run(self, scenario: Scenario) -> Tally:
        """All kills of a scenario, first and second ones."""
        world = self.world
        start, allowed = self.begin(scenario)
        self.expect_whole(scenario, start, allowed)
        before = self.tally
        seen: dict[State, None] = {}
        for opcode, state in self.kills(start, lambda: scenario.operate(world), scenario.stride):
            if state not in seen:
                seen[state] = None
                # Those of a long operation are alike.
                if not self.sample or len(seen) < self.most_judged:
                    self.judge(scenario, state, allowed, f"killed before opcode {opcode}")
        unfinished = [state for state in seen if self.unfinished(state)]
        for state in self.dice.sample(unfinished, min(len(unfinished), _MOST_SECOND)):
            judged = 0
            for opcode, second in self.kills(state, self.recover, scenario.stride):
                if second not in seen and (not self.sample or judged < self.most_judged):
                    seen[second] = None
                    judged += 1
                    where = f"killed before opcode {opcode} of the recovery"
                    self.judge(scenario, second, allowed, where)
        return Tally(*(now - then for now, then in zip(self.tally, before, strict=True)))

    def expect_whole(self, scenario: Scenario, start: State, allowed: list[View]) -> None:
        """The operation comes to its end undisturbed, and does what it should."""
        world = self.world
        world.load(start)
        killed(lambda: scenario.operate(world), 1 << 60, self.in_place)
        view = world.view()
        if view != allowed[-1]:
            raise Finding(
                f"{scenario.name}: undisturbed it came to {brief(view)}, not {brief(allowed[-1])}"
            )

    def kills(
        self, start: State, operate: Callable[[], object], stride: int
    ) -> Iterator[tuple[int, State]]:
        """Opcode and memory of each kill, while there is something to kill."""
        world = self.world
        last = start
        world.load(start)
        opcode, step = 1, stride
        if self.sample:
            # The whole length, in as many steps as may be taken.
            step = max(1, self.length(start, operate) // self.sample)
            opcode = self.dice.randrange(1, step + 1)
            world.load(start)
        while True:
            if not killed(operate, opcode, self.in_place):
                return
            world.free_locks()
            self.tally = self.tally.plus(Tally(ends=1))
            state = world.save()
            # Most opcodes change nothing, and then there is nothing new to see.
            if state != last:
                yield opcode, state
                last = state
            if state != start:
                world.load(start)
            opcode += self.dice.randrange(1, 2 * step) if self.sample else step

    def length(self, start: State, operate: Callable[[], object]) -> int:
        """How many opcodes an operation has, nearly."""
        low, high = 1, 512
        while killed(operate, high, self.in_place):
            low, high = high, high * 4
            # What was killed has been done, maybe, and need not be possible twice.
            self.world.free_locks()
            self.world.load(start)
        return (low + high) // 2

    def in_place(self) -> None:
        """Have a forked child act as its parent does."""
        world = self.world
        world.engine._slot = world.slot
        world.engine._identity = world.identity
        locks = world.store.lock_file._locks
        if isinstance(locks, SemaphoreLocks):
            locks.take_slot()

    def unfinished(self, state: State) -> bool:
        """Whether the next to enter has something to end."""
        self.world.load(state)
        return self.world.state() != (IDLE, IDLE)

    def recover(self) -> None:
        """What whoever comes next does first."""
        with self.world.inside():
            pass


def examine(engine: str, sample: int, only: str, say: Callable[[str], object]) -> Tally:
    """Everything on one engine."""
    # To prepare the longest takes longer than a sample of kills.
    return Torturer(engine, sample).run_all(only, say, longest=9 if sample else 10**6)


main = command("kill", __doc__, examine)
