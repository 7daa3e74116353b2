"""docs/operations.md: its commands exist, its alerts fire, its unit has settings that there are."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.metrics.prometheus import StoreCollector
from tests.tools.command_options import options_of
from tests.tools.documents import DOCS, blocks

TEXT = (DOCS / "operations.md").read_text()
#: Which series lead to which alert, and when.
ALERTS = """
rule_files: [asgi_ipc.rules.yml, asgi_ipc_relay.rules.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'asgi_ipc_messages_max_age_seconds{prefix="mysite"}'
        values: '0 0 20 20 20 20 20 0 0'
      - {series: 'asgi_ipc_channel_full_total{prefix="mysite"}', values: '0x9'}
      - {series: 'asgi_ipc_expired_total{prefix="mysite"}', values: '5 5 5 5 5 9 9 9 9 9'}
      - {series: 'asgi_ipc_buffer_expired_total{prefix="mysite"}', values: '0x9'}
      - {series: 'asgi_ipc_buffer_overflow_total{prefix="mysite"}', values: '0x9'}
      - {series: 'asgi_ipc_orphaned_total{prefix="mysite"}', values: '0x9'}
      - {series: 'asgi_ipc_channel_bytes_used{prefix="mysite"}', values: '10x9'}
      - {series: 'asgi_ipc_channel_bytes_limit{prefix="mysite"}', values: '100x9'}
      - {series: 'asgi_ipc_group_bytes_used{prefix="mysite"}', values: '90x9'}
      - {series: 'asgi_ipc_group_bytes_limit{prefix="mysite"}', values: '100x9'}
      - {series: 'up{job="mysite", instance="a"}', values: '1 1 1 0 0 0 0 0 0'}
      - series: 'asgi_ipc_relay_connected{prefix="cut", instance="a"}'
        values: '1 1 0 0 0 0 0 1 1'
      - series: 'asgi_ipc_relay_problems{prefix="cut", instance="a"}'
        values: '0 0 1 1 1 1 0 0 0'
      - series: 'asgi_ipc_relay_connected{prefix="flaps", instance="a"}'
        values: '1 1 0 1 0 1 0 1 0'
      - series: 'asgi_ipc_relay_disconnects_total{prefix="flaps"}'
        values: '7 7 8 8 9 9 10 10 11'
      - {series: 'asgi_ipc_relay_disconnects_total{prefix="cut"}', values: '7 7 8 8 8 9 9 9 9'}
      - {series: 'asgi_ipc_relay_connected{prefix="drops", instance="a"}', values: '1x9'}
      - series: 'asgi_ipc_relay_problems{prefix="drops", instance="a"}'
        values: '0 0 1 1 1 1 1 1 0'
      - {series: 'asgi_ipc_relay_waiting_bytes{prefix="drops"}', values: '0 0 60 60 60 60 10 0'}
      - {series: 'asgi_ipc_relay_backlog_bytes{prefix="drops"}', values: '100x9'}
      - series: 'asgi_ipc_relay_machines{prefix="drops", instance="a", state="silent"}'
        values: '0 1 1 1 1 1 0 0 0'
      - series: 'asgi_ipc_relay_machines{prefix="cut", instance="a", state="silent"}'
        values: '0 0 3 3 3 3 3 0 0'
    promql_expr_test:
      - expr: count by (alertname, prefix) (ALERTS{alertstate="firing", alertname=~"Mach.*|Rel.*"})
        eval_time: 1m
      - expr: count by (alertname, prefix) (ALERTS{alertstate="firing", alertname=~"Mach.*|Rel.*"})
        eval_time: 5m
        exp_samples:
          - {labels: '{alertname="MachineCutOff", prefix="cut"}', value: 1}
          - {labels: '{alertname="RelayNeedsAPerson", prefix="drops"}', value: 1}
          - {labels: '{alertname="RelayFallsBehind", prefix="drops"}', value: 1}
          - {labels: '{alertname="MachineSilent", prefix="drops"}', value: 1}
      - expr: count by (alertname, prefix) (ALERTS{alertstate="firing", alertname=~"Conn.*|Mach.*"})
        eval_time: 8m
        exp_samples:
          - {labels: '{alertname="ConnectionFlaps", prefix="flaps"}', value: 1}
      - expr: ALERTS{alertstate="firing", alertname="MessagesWait"}
        eval_time: 1m
      - expr: count(ALERTS{alertstate="firing", alertname="MessagesWait"})
        eval_time: 4m
        exp_samples: [{labels: "{}", value: 1}]
      - expr: ALERTS{alertstate="firing", alertname="MessagesLost"}
        eval_time: 4m
      - expr: count(ALERTS{alertstate="firing", alertname="MessagesLost"})
        eval_time: 6m
        exp_samples: [{labels: "{}", value: 1}]
      - expr: ALERTS{alertstate="firing", alertname="StoreNotSeen"}
        eval_time: 3m
      - expr: count(ALERTS{alertstate="firing", alertname="StoreNotSeen"})
        eval_time: 5m
        exp_samples: [{labels: "{}", value: 1}]
      - expr: count(ALERTS{alertstate="firing", alertname="StoreFillsUp"})
        eval_time: 7m
        exp_samples: [{labels: "{}", value: 1}]
"""


def lines() -> list[list[str]]:
    """The words of each command line that the document shows, whatever it is called by."""
    shown = [
        line.removeprefix("$ ")
        for block in blocks(DOCS / "operations.md", "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    shown += re.findall(r"`(asgi-ipc [^`]+)`", TEXT)
    found = []
    for line in shown:
        words = shlex.split(line, comments=True)
        if "asgi-ipc" in words:
            of_it = itertools.takewhile(
                lambda word: word not in ("&&", "|"), words[words.index("asgi-ipc") + 1 :]
            )
            found.append(list(of_it))
    return found


def test_every_command_of_the_document_exists_with_its_options() -> None:
    used = set()
    for name, *words in lines():
        options = options_of(name)
        if options is None:
            assert name == "COMMAND", name
            continue
        used.add(name)
        assert {word for word in words if word.startswith("--")} <= options, name
    assert len(used) >= 10


def named(file: str) -> str:
    """The contents of a file that the document shows."""
    (found,) = (
        block
        for language in ("yaml", "ini")
        for block in blocks(DOCS / "operations.md", language)
        if block.startswith(f"# {file}\n")
    )
    return found


def test_the_alerts_are_about_counts_that_there_are() -> None:
    layer = SyncIPCChannelLayer(prefix="operations", engine="memory")
    there = {metric.name for metric in StoreCollector(layer).describe()}
    there |= {f"{name}_total" for name in there}
    layer.close()
    rules = named("asgi_ipc.rules.yml") + named("asgi_ipc_relay.rules.yml")
    used = set(re.findall(r"asgi_ipc_\w+", rules)) - {"asgi_ipc_relay"}  # The name of a group.
    assert used <= there


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    for file in ("prometheus.yml", "asgi_ipc.rules.yml", "asgi_ipc_relay.rules.yml"):
        (tmp_path / file).write_text(named(file))
    (tmp_path / "tests.yml").write_text(ALERTS)
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["mysite-web", "mysite-metrics"])
def test_the_units_have_only_settings_that_there_are(tmp_path: Path, name: str) -> None:
    unit = tmp_path / f"{name}.service"
    unit.write_text(named(f"/etc/systemd/system/{unit.name}"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=120
    )
    said = done.stdout + done.stderr
    # The programs are not here.
    faults = [line for line in said.splitlines() if unit.name in line and "/srv/" not in line]
    assert faults == []
    assert f"{unit.name}: Command /srv/mysite" in said
