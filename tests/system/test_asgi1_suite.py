"""The synchronous layer passes the conformance suite that asgiref 1.1 brought along.

That was the contract of the channel layers for which asgi_ipc was first written. The suite is
installed apart from everything else, as Channels 4 needs another asgiref.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc.engines import available

ROOT = Path(__file__).resolve().parents[2]
#: How many tests the suite has.
TESTS = 18
#: Seconds until a message expires; more for a machine that did not get things done in time.
EXPIRIES = (1, 5)

CASE = """
import secrets, sys, unittest
sys.path[:0] = sys.argv[1:3]
from asgiref.conformance import ConformanceTestCase
from asgi_ipc import SyncIPCChannelLayer

class Suite(ConformanceTestCase):
    expiry_delay = int(sys.argv[4]) * 1.1
    capacity_limit = 5

    @classmethod
    def setUpClass(cls):
        expiry = int(sys.argv[4])
        cls.channel_layer = SyncIPCChannelLayer(
            "t" + secrets.token_hex(8),
            engine=sys.argv[3],
            expiry=expiry,
            group_expiry=2 * expiry,
            capacity=cls.capacity_limit,
        )

    @classmethod
    def tearDownClass(cls):
        cls.channel_layer.destroy()

unittest.main(argv=["asgi1", "Suite"])
"""


def test_the_suite_of_asgiref_1_1_passes_on_every_engine(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--target", str(tmp_path), "asgiref==1.1.2", "six"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"asgiref 1.1.2 can't be installed here: {error}")
    for expiry in EXPIRIES:
        told = run_on_all(tmp_path, expiry)
        passed = [
            re.search(rf"Ran {TESTS} tests in \S+\n\nOK$", each.strip()) is not None
            for each in told.values()
        ]
        if all(passed):
            return
    raise AssertionError("\n".join(f"{engine}: {each}" for engine, each in told.items()))


def run_on_all(suite: Path, expiry: int) -> dict[str, str]:
    """What the suite says of each engine that works here."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    runs = {
        engine: subprocess.Popen(
            [sys.executable, "-c", CASE, str(suite), str(ROOT), engine, str(expiry)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for engine in ("posix", "sysv", "mmap", "memory")
        if available()[engine] is None
    }
    try:
        return {engine: each.communicate(timeout=240)[1] for engine, each in runs.items()}
    finally:
        for each in runs.values():
            each.kill()
            each.wait()
