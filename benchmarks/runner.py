"""Asks every question of every layer, round by round, interleaved, each case in new processes.

The layers take turns within a round, and another one begins each round, so that a machine
which is slower for a while is slower for all.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import tempfile
from collections.abc import Callable, Sequence

from .peers import Peer
from .peers.base import Resources
from .place import Place
from .processes import CaseFailed, together
from .questions import Case, Question
from .results import Key, Results
from .settings import Settings

Tell = Callable[[str], None]


def run(
    questions: Sequence[Question],
    peers: Sequence[Peer],
    floors: bool,
    settings: Settings,
    resources: Resources,
    directory: str,
    tell: Tell,
    results: Results,
) -> None:
    """Ask all, and put the answers into ``results``."""
    for turn in range(settings.rounds):
        for question in questions:
            cases = [case for case in question.cases(settings, peers) if floors or case.peer]
            for variant, group in itertools.groupby(cases, lambda case: case.variant):
                alike = list(group)
                first = turn % len(alike)
                for case in alike[first:] + alike[:first]:
                    told = f"{turn + 1}/{settings.rounds}  {question.name}  {variant}  {case.who}"
                    tell(told)
                    _ask(question, case, resources, directory, results)


def _ask(
    question: Question, case: Case, resources: Resources, directory: str, results: Results
) -> None:
    where = (question.name, case.variant, case.who)
    if where in results.failures:
        return  # It would only take as long again.
    with contextlib.ExitStack() as stack:
        places = [
            Place(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="case-", dir=directory)),
                f"bench-{secrets.token_hex(4)}",
                resources.redis,
                resources.database,
            )
            for _ in range(case.places)
        ]
        if case.peer is not None:
            for place in places:
                stack.callback(case.peer.clean, place)
                case.peer.prepare(place)
        try:
            returned = together(case.peer, places, case.roles, case.timeout)
        except CaseFailed as error:
            results.failures[where] = str(error)
            return
    for variant, answer in case.answers(returned).items():
        for number, value in answer.items():
            results.add(Key(question.name, variant, case.who, number), value)


def usable(peers: Sequence[Peer], resources: Resources, tell: Tell) -> list[Peer]:
    """Those that can be measured here; says why the others can't."""
    here = []
    for peer in peers:
        why = peer.unavailable(resources)
        if why is None:
            here.append(peer)
        else:
            tell(f"Left out: {peer.name}: {why}")
    return here


__all__ = ["run", "usable"]
