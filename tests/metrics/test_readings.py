"""Metrics: each statistic is one, counters never fall, and Prometheus likes the names."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.engines.base import Record
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.layers import inspection
from asgi_ipc.metrics import catalogue, exposition, readings
from tests.metrics.conftest import values_of

FAR = 1 << 62
#: What one process knows of itself alone, which another would tell otherwise.
OF_ONE_PROCESS = {"overflow_count", "unreadable_count"}


def test_every_statistic_of_the_store_is_a_metric(layer: SyncIPCChannelLayer) -> None:
    there = {metric.statistic for metric in catalogue.OF_STORE}
    assert there == set(layer.global_statistics()) - OF_ONE_PROCESS
    assert {each.statistic for each in catalogue.OF_CHANNEL} < set(inspection.ChannelInfo._fields)
    names = [each.full_name for each in (*catalogue.OF_STORE, *catalogue.OF_CHANNEL)]
    assert len(names) == len(set(names))


def test_the_text_has_all_values_with_prefix_and_engine(layer: SyncIPCChannelLayer) -> None:
    layer.send("work", {"type": "a"})
    layer.send("work", {"type": "a"})
    layer.receive(["work"])
    text = exposition.text(readings.of_layer(layer))
    values = values_of(text)
    assert values['asgi_ipc_messages_total{prefix="site",engine="memory"}'] == 2
    assert values['asgi_ipc_received_total{prefix="site",engine="memory"}'] == 1
    assert values['asgi_ipc_messages_pending{prefix="site",engine="memory"}'] == 1
    assert values['asgi_ipc_processes{prefix="site",engine="memory"}'] == 1
    assert 0 < values['asgi_ipc_messages_max_age_seconds{prefix="site",engine="memory"}'] < 60
    assert len(values) == len(catalogue.OF_STORE)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_prometheus_finds_nothing_to_complain_of(layer: SyncIPCChannelLayer) -> None:
    layer.send("work", {"type": "a"})
    engine = MemoryEngine("told", channel_memory=1 << 20, group_memory=1 << 20)
    engine.push([Record(b"work", b"x", FAR, 9), Record(b'"\\\n{}\xff', b"x", FAR, 9)])
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition.text(readings.of_engine("told", engine, 10)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_channels_are_bounded_in_number_and_ordinary() -> None:
    engine = MemoryEngine("told", channel_memory=1 << 20, group_memory=1 << 20)
    for name, number in ((b"a", 1), (b"b", 3), (b"c", 2), (b"their!", 9), (b'q"\n', 5)):
        engine.push([Record(name, b"x", FAR, 99)] * number)
    assert readings.of_engine("told", engine).channels == ()
    told = values_of(exposition.text(readings.of_engine("told", engine, 3)))
    assert {key: value for key, value in told.items() if "channel_pending{" in key} == {
        'asgi_ipc_channel_pending{prefix="told",engine="memory",channel="b"}': 3,
        'asgi_ipc_channel_pending{prefix="told",engine="memory",channel="c"}': 2,
        'asgi_ipc_channel_pending{prefix="told",engine="memory",channel="q\\"\\n"}': 5,
    }


def test_counters_do_not_fall_when_a_message_is_put_back() -> None:
    engine = MemoryEngine("told", channel_memory=1 << 20, group_memory=1 << 20)
    engine.push([Record(b"a", b"x", FAR, 99)] * 2)
    name = 'asgi_ipc_received_total{prefix="told",engine="memory"}'

    def received() -> float:
        return values_of(exposition.text(readings.of_engine("told", engine)))[name]

    (popped,) = engine.pop(b"a")
    assert received() == 1
    engine.restore(b"a", popped)
    assert received() == 1
    assert engine.statistics()["popped"] == 0
    engine.pop(b"a", 2)
    assert received() == 3


def test_an_engine_that_counts_less_has_fewer_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MemoryEngine("told", channel_memory=1 << 20, group_memory=1 << 20)
    all_counts = engine.statistics()
    some = {
        key: all_counts[key] for key in all_counts if key not in ("restored", "processes", "held")
    }
    monkeypatch.setattr(engine, "statistics", lambda: some)
    told = exposition.text(readings.of_engine("told", engine))
    assert "asgi_ipc_messages_total" in told
    for name in ("received", "processes", "held{"):
        assert f"asgi_ipc_{name}" not in told


def test_an_engine_is_named_as_settings_name_it() -> None:
    class Other(MemoryEngine):
        pass

    for kind, name in ((MemoryEngine, "memory"), (Other, Other.__qualname__)):
        assert readings.engine_name(kind("n", channel_memory=1 << 20, group_memory=1 << 20)) == name
