"""What `make compat` does with a suite, and that the document tells of each. Needs no network."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import pytest

from tests.compat.__main__ import run
from tests.compat.judge import complaints, counts
from tests.compat.suites import SUITES, Difference, Suite
from tests.tools.documents import DOCS, ROOT

ROW = re.compile(r"^\| (\S+) \| (\S+) \| (.+) \| (\d+) \| (\d+) \|$", re.M)
#: What somebody might have written for a layer of theirs, whose class is `AnyLayer`.
THEIRS = """
import pytest
from tests.compat.adapters.layer import AnyLayer

@pytest.mark.parametrize("number", [1, 2])
async def test_it_carries_a_message(number):
    layer = AnyLayer(hosts=["redis://nowhere"], capacity=1)
    await layer.send("c", {"number": number})
    assert await AnyLayer().receive("c") == {"number": number}

@pytest.mark.xfail
@pytest.mark.parametrize("number", [1, 2])
def test_it_has_pools(number):
    assert AnyLayer().pools

def test_it_runs_on_this_system():
    pytest.skip("no server")
"""


def suite(*differences: Difference, module: str = "tests/test_it.py") -> Suite:
    return Suite("theirs", "1.0", "a layer", "layer", (module,), differences=differences)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "theirs-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as files:
        for name in ("tests/test_it.py", "tests/test_servers.py"):
            member = tarfile.TarInfo(f"theirs-1.0/{name}")
            member.size = len(THEIRS)
            files.addfile(member, io.BytesIO(THEIRS.encode()))
    return path


@pytest.fixture(scope="module")
def outcomes(archive: Path) -> dict[str, str]:
    return run(suite(), archive)


def test_a_suite_runs_on_our_layer_and_each_outcome_is_told(outcomes: dict[str, str]) -> None:
    failed = {name: text for name, text in outcomes.items() if text.startswith("failed: ")}
    assert set(failed) == {f"test_it.py::test_it_has_pools[{n}]" for n in (1, 2)}
    assert all("has no attribute 'pools'" in text for text in failed.values())
    assert counts(outcomes.values()) == {"passed": 2, "differ": 3}
    # Of the archive's modules only those that are listed ran.
    assert {name.partition("::")[0] for name in outcomes} == {"test_it.py"}


def test_a_new_difference_and_a_skipped_test_are_complained_of(outcomes: dict[str, str]) -> None:
    one, two, skipped = complaints(suite(), outcomes)
    assert one.startswith("new difference: test_it.py::test_it_has_pools[1] failed: Attribute")
    assert two.startswith("new difference: test_it.py::test_it_has_pools[2] failed: Attribute")
    assert skipped.startswith("skipped: test_it.py::test_it_runs_on_this_system")


def test_a_known_difference_is_none_and_an_outdated_one_is(outcomes: dict[str, str]) -> None:
    outcomes = {name: text for name, text in outcomes.items() if text != "skipped"}
    pools, message = "test_it.py::test_it_has_pools", "test_it.py::test_it_carries_a_message"
    assert complaints(suite(Difference("no pools", (pools,))), outcomes) == []
    known = Difference("no pools", (pools, message, "test_it.py::test_gone"))
    passes, gone = complaints(suite(known), outcomes)
    assert passes == f"outdated: {message} passes; take it off the list"
    assert gone.startswith("outdated: there is no test test_it.py::test_gone any more")
    twice = complaints(suite(Difference("a", (pools,)), Difference("b", (pools,))), outcomes)
    assert twice == [f"listed twice: {pools}[{n}]" for n in (1, 2)]


def test_a_suite_of_which_no_test_runs_is_complained_of() -> None:
    assert complaints(suite(), {}) == ["no test ran"]


def test_an_archive_without_a_module_that_is_listed_is_refused(archive: Path) -> None:
    with pytest.raises(SystemExit, match=r"theirs-1\.0\.tar\.gz has no tests/test_other\.py"):
        run(suite(module="tests/test_other.py"), archive)


def test_the_list_is_in_order() -> None:
    for each in SUITES:
        assert (ROOT / "tests" / "compat" / "adapters" / f"{each.adapter}.py").exists()
        modules = {Path(path).name for path in each.modules}
        listed = [name for difference in each.differences for name in difference.tests]
        assert len(listed) == len(set(listed))
        assert {name.partition("::")[0] for name in listed} <= modules
        assert all(difference.why.endswith(".") for difference in each.differences)


def test_the_document_tells_of_each_suite_and_each_difference() -> None:
    text = (DOCS / "compat.md").read_text()
    rows = {row[0]: row[1:] for row in ROW.findall(text)}
    assert list(rows) == [each.name for each in SUITES]
    for each in SUITES:
        version, what, _, differ = rows[each.name]
        listed = sum(len(difference.tests) for difference in each.differences)
        assert (version, what, int(differ)) == (each.version, each.what, listed)
        for difference in each.differences:
            count = len(difference.tests)
            assert f"| {each.name} | {count} | {difference.why} |" in text, difference.why
