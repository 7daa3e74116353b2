"""The benchmark of relays runs and comes to a result. No test says how fast anything is."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import redis_core
from benchmarks.place import Place
from benchmarks.processes import Bench, CaseFailed, Role, together
from benchmarks.relays import __main__ as program
from benchmarks.relays import paper
from benchmarks.relays.machines import ALONE, OURS, PROCESS, ours
from benchmarks.relays.questions import QUESTIONS
from benchmarks.relays.questions.growth import PAIRS, QUIET, SIZES, variant
from benchmarks.results import Key, Results
from tests.tools.doubles import (
    watchdog,
)

__all__ = ["watchdog"]


def test_all_questions_are_answered_by_relays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not any(map(shutil.which, ("redis-server", "valkey-server"))):
        pytest.skip("no redis-server here")
    pytest.importorskip("redis")
    status = program.main(
        ["--quick", "--rounds", "1", "--peers", "relay threads", "--out", str(tmp_path)]
    )
    said = capsys.readouterr().out
    assert status == 0, said
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["failures"] == []
    figures = {(each["question"], each["number"]): each["median"] for each in written["figures"]}
    assert {question for question, _ in figures} == {question.name for question in QUESTIONS}
    for question in ("everywhere", "worker", "frames", "growth"):
        assert figures[question, "not come"] == 0, question
    # As the relay has counted them; a frame may carry more than one message.
    assert 0 < figures["frames", "frames out/s"] <= figures["frames", "messages/s"]


def test_an_unknown_question_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        program.main(["--only", "between,speed"])
    assert "take of between, everywhere, local, worker, frames, growth" in capsys.readouterr().err


def test_a_relay_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "bench-ends", "/nonexistent/redis.sock", "")
    with pytest.raises(CaseFailed, match="on purpose"):
        together(ours(PROCESS, OURS), [place], [Role(_start_a_relay_and_fail)], 30)
    relay = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{relay}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{relay}")


def test_the_stores_of_machines_are_removed_with_their_locks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_core, "flush", lambda place: None)
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm here")
    peer = ours(ALONE, "")

    async def used() -> set[str]:
        before, layer = _mapped(), peer.open(place)
        await layer.new_channel()
        made = _mapped() - before
        await peer.close(layer)
        return made

    # As the benchmark does it: elsewhere the locks are of another kind.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        place = Place(folder, "bench-removed", "/nonexistent/redis.sock", "")
        made = asyncio.run(used())
        assert made
        peer.clean(place)
    assert not made & set(os.listdir("/dev/shm"))


def _mapped() -> set[str]:
    """What of asgi_ipc in shared memory this process has mapped; other tests make theirs."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = [Path(line.split(maxsplit=5)[-1]) for line in lines]
    return {each.name for each in paths if each.parent == Path("/dev/shm")}


def _start_a_relay_and_fail(bench: Bench) -> dict[str, Any]:
    layer: Any = bench.open(machine=0, relays=True)
    Path(bench.place.directory, "pid").write_text(str(layer.relay.pid))
    while not layer.relay_seconds():
        time.sleep(0.01)
    raise RuntimeError("on purpose")


_KNOWN = paper.Costs(
    relay_quiet=paper.Line(0.001, 0.0001),
    relays=paper.Line(300e-6, 200e-6),
    server_quiet=0.0015,
    server=paper.Line(30e-6, 10e-6),
    to_server=250.0,
    from_server=paper.Line(4.0, 240.0),
    beat_to_server=100.0,
    beat_from_server=90.0,
    relays_in_bulk=0.1,
    server_in_bulk=0.05,
)


def _results_of(costs: paper.Costs, rate: float = 300.0) -> Results:
    """What a run would measure if that were all."""
    results = Results()

    def add(question: str, variant: str, **numbers: float) -> None:
        for number, value in numbers.items():
            results.add(Key(question, variant, OURS, number), value)

    for machines, where in SIZES:
        heard = 2 if where == PAIRS else machines
        relay = costs.relay_quiet.at(machines - 1)
        server = costs.server_quiet + machines * costs.server.at(machines)
        gets, sends = machines * costs.beat_to_server, machines**2 * costs.beat_from_server
        for what, of in ((QUIET, 0.0), (where, rate)):
            numbers = {
                "broadcasts/s": of,
                "relay CPU %": 100 * (relay + of * costs.relays.at(heard - 1) / machines),
                "server CPU %": 100 * (server + of * costs.server.at(heard)),
                "server gets kB/s": (gets + of * costs.to_server) / 1e3,
                "server sends kB/s": (sends + of * costs.from_server.at(heard)) / 1e3,
            }
            add("growth", variant(machines, what), **numbers)
    each = costs.relays.at(1) * costs.relays_in_bulk * 1e6 / 2
    of_server = costs.server.at(1) * costs.server_in_bulk * 1e6
    names = ("relay out, CPU µs each", "relay in, CPU µs each", "server, CPU µs each")
    add("frames", "150 bytes", **dict(zip(names, (each, each, of_server), strict=True)))
    return results


def test_costs_are_found_in_what_a_run_has_measured() -> None:
    assert paper.costs(Results()) is None
    found = paper.costs(Results.of_json(_results_of(_KNOWN).as_json()))
    assert found is not None
    for name, value in _KNOWN._asdict().items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6), name


def test_on_paper_subscriptions_spare_machines_what_others_broadcast() -> None:
    site = paper.Site(rate=100.0, groups=20, on=2)
    # Two have members; of the other 48 each has one of the 20 groups' shards by chance.
    assert paper.heard_by(50, site, True) == pytest.approx(2 + 48 * 20 / 1024, rel=0.02)
    assert paper.heard_by(50, site, False) == 50
    # All of so many groups' shards are somebody's.
    assert paper.heard_by(50, site._replace(groups=100_000), True) == pytest.approx(50)
    spared, all_hear = (paper.load(_KNOWN, 50, site, each) for each in (True, False))
    assert all_hear.server == pytest.approx(
        0.0015 + 5_000 * (30e-6 + 50 * 10e-6) + 50 * (30e-6 + 50 * 10e-6)
    )
    assert all(less < more for less, more in zip(spared, all_hear, strict=True))
    full = paper.most(_KNOWN, 50, site, False)
    assert paper.load(_KNOWN, 50, site._replace(rate=full.server), False).server == pytest.approx(1)
    assert paper.most(_KNOWN.in_bulk(), 50, site, False).server > full.server


def test_the_paper_is_written_from_the_file_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(_results_of(_KNOWN).as_json()))
    assert paper.main(["--results", str(path), "--rate", "50"]) == 0
    said = capsys.readouterr().out
    assert "each machine broadcasts 50 times a second" in said
    assert "a broadcast alone takes 300 µs of its relay" in said
    path.write_text(json.dumps(Results().as_json()))
    assert paper.main(["--results", str(path)]) == 2
