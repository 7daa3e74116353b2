"""The metrics of a relay: an outage pages, and a site on one machine has none of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.metrics import catalogue, exposition, readings
from asgi_ipc.metrics.prometheus import StoreCollector
from tests.metrics.conftest import values_of
from tests.tools.machines import Site, eventually, run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.destroy()


def told(layer: SyncIPCChannelLayer) -> dict[str, float]:
    """The values of the relay's metrics, without the labels that all have."""
    found = values_of(exposition.text(readings.of_layer(layer)))
    common = 'prefix="site",engine="mmap"'
    return {
        key.removeprefix("asgi_ipc_").replace(f"{{{common}}}", "").replace(f"{common},", ""): value
        for key, value in found.items()
        if key.startswith("asgi_ipc_relay")
    }


def test_a_store_on_one_machine_has_no_metrics_of_a_relay(layer: SyncIPCChannelLayer) -> None:
    assert "relay" not in exposition.text(readings.of_layer(layer))


def test_a_relay_is_told_in_all_its_metrics(site: Site) -> None:
    async def main() -> None:
        one, two = await site.joined(2)
        channel = await two.member("room")
        await one.layer.group_send("room", {"n": 1})
        await two.layer.receive(channel)
        await eventually(lambda: told(one.layer.sync)["relay_frames_out_total"] == 1)
        await eventually(lambda: "relay_lag_seconds" in told(one.layer.sync))
        found = told(one.layer.sync)
        assert {each.full_name.removeprefix("asgi_ipc_") for each in catalogue.OF_RELAY} == {
            key.partition("{")[0] for key in found
        } | {"relay_dropped_total"}
        states = {key: value for key, value in found.items() if key.startswith("relay_state")}
        assert len(states) == 7
        assert [key for key, value in states.items() if value] == ['relay_state{state="connected"}']
        assert found["relay_connected"] == 1
        assert 0 <= found["relay_contact_age_seconds"] < 60
        assert found["relay_bytes_out_total"] > 0
        assert found["relay_backlog_bytes"] == 2 << 20
        assert found['relay_machines{state="heard"}'] == 1
        assert found["relay_problems"] == 0
        two.end()
        one.dropped("way out full", 3)
        found = told(one.layer.sync)
        assert found['relay_dropped_total{reason="way_out_full"}'] == 3
        assert found["relay_problems"] == 1
        await eventually(lambda: told(one.layer.sync)['relay_machines{state="left"}'] == 1)

    run(main)


def test_an_outage_shows_in_the_metrics(site: Site) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        await eventually(lambda: told(machine.layer.sync)["relay_connected"])
        site.server.go_away()
        await eventually(lambda: not told(machine.layer.sync)["relay_connected"])
        await machine.layer.group_send("room", {"n": 1})
        found = told(machine.layer.sync)
        assert found['relay_state{state="away"}'] == 1
        assert found["relay_waiting"] == 1
        assert found["relay_waiting_bytes"] > 0
        assert found["relay_problems"] == 1
        assert found["relay_disconnects_total"] == 1
        machine.end()
        found = told(machine.layer.sync)
        assert found['relay_state{state="none"}'] == 1
        assert found["relay_connected"] == 0

    run(main)


def complaints(text: str) -> str:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_prometheus_finds_nothing_to_complain_of_and_the_collector_says_the_same(
    site: Site,
) -> None:
    async def main() -> None:
        (machine,) = await site.joined(1)
        machine.dropped("way out full", 3)
        layer = machine.layer.sync
        text = exposition.text(readings.of_layer(layer))
        assert complaints(text) == ""
        registry = CollectorRegistry()
        registry.register(StoreCollector(layer))
        collected = generate_latest(registry).decode()
        ours = {line.partition(" ")[0] for line in text.splitlines() if line[0] != "#"}
        # Some labels stand in another order.
        assert {each.partition("{")[0] for each in ours} == {
            line.partition("{")[0] for line in collected.splitlines() if line[0] != "#"
        }

    run(main)
