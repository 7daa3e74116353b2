"""The skeleton for porters, and that the tests of the Segment contract can fail."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from asgi_ipc.conformance import test_segment as suite
from asgi_ipc.conformance.tools import PATIENCE

from asgi_ipc.engines import available
from asgi_ipc.engines.shm.directory import StoreDirectory
from asgi_ipc.engines.shm.segment import Location, Segment
from asgi_ipc.engines.shm.segment_example import ExampleEngine, ExampleSegment

#: That the skeleton has the shape is mypy's to say.
_shape: type[Segment] = ExampleSegment

DIRECTORY = StoreDirectory(Location("/nowhere", 0o600, None), -1)
CALLS: dict[str, Callable[[], object]] = {
    "locator_for": lambda: ExampleSegment.locator_for("channels", "0" * 16),
    "create": lambda: ExampleSegment.create(DIRECTORY, "x", 1 << 18),
    "attach": lambda: ExampleSegment.attach(DIRECTORY, "x"),
    "left": lambda: ExampleSegment.left(),
    "space": lambda: ExampleSegment.space("/nowhere"),
    "owner": lambda: ExampleSegment().owner(),
    "head": lambda: ExampleSegment().head(512),
    "reserve": lambda: ExampleSegment().reserve(0, 4096),
    "give_back": lambda: ExampleSegment().give_back(0, 4096),
    "may_unlink": lambda: ExampleSegment().may_unlink(),
    "is_linked": lambda: ExampleSegment().is_linked(),
    "unlink": lambda: ExampleSegment().unlink(),
    "close": lambda: ExampleSegment().close(),
}


def methods(owner: type) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")} - {"view"}


@pytest.mark.parametrize("name", CALLS)
def test_each_method_of_the_skeleton_raises_and_says_what_it_is_for(name: str) -> None:
    with pytest.raises(NotImplementedError):
        CALLS[name]()
    said = inspect.getdoc(getattr(ExampleSegment, name))
    assert said is not None
    assert len(said.splitlines()) > 2


def test_the_skeleton_has_all_of_the_contract_and_nothing_else() -> None:
    assert methods(ExampleSegment) == methods(Segment) == set(CALLS)
    for name in CALLS:
        theirs, ours = (
            inspect.signature(getattr(each, name)) for each in (Segment, ExampleSegment)
        )
        assert list(theirs.parameters) == list(ours.parameters), name


def test_every_clause_stands_in_the_skeleton() -> None:
    text = inspect.getsource(sys.modules[ExampleSegment.__module__])
    assert set(re.findall(r"\((G\d)\)", text)) == {f"G{n}" for n in range(1, 9)}


def test_the_skeleton_is_no_engine_of_this_machine() -> None:
    assert "example" not in available()
    assert "skeleton" in (ExampleEngine.unavailable() or "")


#: Segments that are wrong in one way each, and the test that says so.
WRONG = {
    "KeepsOldContent": suite.test_new_memory_is_zero_writable_and_of_exactly_that_size,
    "HeedsTheUmask": suite.test_the_mode_is_the_one_asked_for_whatever_the_umask,
    "TakesOverWhatExists": suite.test_a_locator_that_is_taken_is_refused_and_what_is_there_unharmed,
    "MakesItTooLarge": suite.test_new_memory_is_zero_writable_and_of_exactly_that_size,
    "LeavesWhatFailed": suite.test_memory_that_no_machine_has_is_an_oserror_and_leaves_nothing,
    "AlwaysTheSameName": suite.test_a_locator_is_short_and_names_no_other_memory,
    "NamesItTooLong": suite.test_a_locator_is_short_and_names_no_other_memory,
    "MakesAHiddenFileFirst": suite.test_a_creator_killed_at_any_instant_leaves_only_what_is_found,
    "ACopyOfItsOwn": suite.test_one_process_may_attach_twice,
    "AttachMakesIt": suite.test_memory_that_is_gone_or_never_was_is_filenotfounderror,
    "ReserveWipes": suite.test_to_reserve_again_keeps_what_is_there,
    "ReserveDoesNothing": suite.test_a_full_file_system_is_an_oserror_and_never_a_bus_error,
    "GivesBackWholePagesAround": (
        suite.test_what_is_given_back_is_had_again_by_reserving_and_all_else_stays
    ),
    "ItIsAlwaysMine": suite.test_the_group_is_the_one_asked_for,
    "ItsModeIsAsAsked": suite.test_the_mode_is_the_one_asked_for_whatever_the_umask,
    "CloseKeepsTheDescriptor": suite.test_closing_releases_the_memory_and_may_be_done_twice,
    "CloseOnlyOnce": suite.test_closing_releases_the_memory_and_may_be_done_twice,
    "CloseRemoves": suite.test_closed_memory_stays_for_the_others,
    "UnlinkTruncates": suite.test_an_attached_process_keeps_memory_that_is_removed,
    "UnlinkOnlyOnce": suite.test_to_remove_what_is_gone_does_nothing,
    "PicksANameAnew": suite.test_a_locator_follows_from_its_arguments_in_every_process,
    "UnlinkByName": suite.test_to_remove_memory_never_removes_what_took_its_name,
    "AttachFollowsLinks": suite.test_attaching_follows_no_link,
    "HidesItsOtherNames": suite.test_memory_with_another_name_says_so,
    "HeadIsZero": suite.test_the_head_is_what_the_memory_begins_with,
    "AlwaysLinked": suite.test_memory_that_was_removed_is_known_to_be_by_those_attached,
    "NobodyMayUnlink": suite.test_its_maker_may_remove_it,
}


def outcomes(folder: Path) -> dict[str, set[str]]:
    """Of each wrong segment, and of a right one, what became of the tests: in one run of all."""
    # What is known to be left behind is not waited for.
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "500", PATIENCE: "0.3"}
    chosen = [f"{test.__name__} and {name}" for name, test in WRONG.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "asgi_ipc.conformance", "test_segment", "-c", os.devnull),
            *("-q", "-rA", "-p", "no:cacheprovider"),
            # Their stores too, which wrong ones leave behind, lie in a folder that goes.
            f"--engine-option=directory={folder}",
            *(f"--engine=tests.tools.wrong_segments:{name}" for name in [*WRONG, "Right"]),
            *("-k", " or ".join(f"({each})" for each in [*chosen, "Right"])),
        ],
        cwd=folder,
        env={**os.environ, **environment, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    found: dict[str, set[str]] = {name: set() for name in [*WRONG, "Right"]}
    line = r"^(PASSED|FAILED|ERROR) \S*::\w+\[tests\.tools\.wrong_segments:(\w+)"
    for outcome, engine in re.findall(line, done.stdout, re.M):
        found[engine].add(outcome)
    assert found["Right"], done.stdout[-3000:] + done.stderr[-3000:]
    return found


def test_a_wrong_segment_fails_the_test_of_what_it_breaks_and_a_right_one_none(
    tmp_path: Path,
) -> None:
    # One test for all, as pytest-xdist would have each of its processes do the run.
    found = outcomes(tmp_path)
    assert found["Right"] == {"PASSED"}
    passed = [name for name in WRONG if "FAILED" not in found[name]]
    if "ReserveDoesNothing" in passed and not found["ReserveDoesNothing"]:
        passed.remove("ReserveDoesNothing")  # No small file system can be mounted here.
    assert passed == []
