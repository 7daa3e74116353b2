"""examples/third_party_engine, as another author would use it: installed, and far from here."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc.engines.base import Record
from tests.tools import sampled_suite
from tests.tools.samples import ALL

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "third_party_engine"
#: What a wheel of asgi_ipc is made of.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "asgi_ipc", "conformance")

#: The same engine with another declaration, which lets the tests of bells run. Within one
#: process, and they use no other, its bells must signal.
WAKING = """
from asgi_ipc_sqlite import SQLiteEngine

class WakingEngine(SQLiteEngine):
    capabilities = SQLiteEngine.capabilities._replace(wakes=True)
"""


class Environment:
    """A virtual environment with asgi_ipc and the engine in it, and pytest from ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
        paths = run(
            [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder
        )
        site = Path(paths.strip())
        # Ours lends pytest and what builds wheels, but not asgi_ipc: a path that is named in
        # a .pth file is not searched for more of them, and so not for our editable install.
        (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for name, names in (("asgi_ipc", SOURCES), ("engine", os.listdir(EXAMPLE))):
            source = folder / "sources" / name
            source.mkdir(parents=True)
            for each in names:
                here = (ROOT if name == "asgi_ipc" else EXAMPLE) / each
                if here.is_dir():
                    shutil.copytree(
                        here, source / each, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(here, source / each)
            run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index"),
                    *("--no-deps", "--no-build-isolation", "--disable-pip-version-check"),
                    *("--target", site, source),
                ],
                folder,
            )
        self.tests = folder / "elsewhere"
        self.tests.mkdir()
        shutil.copytree(EXAMPLE / "tests", self.tests / "tests")
        shutil.copy(EXAMPLE / "pyproject.toml", self.tests)

    def pytest(self, *arguments: str) -> str:
        """What pytest says of the example's tests."""
        command = [self.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        return run(command, self.tests)


def run(command: Sequence[object], folder: Path) -> str:
    """Run a command in a folder, with nothing of ours in its environment."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    # The databases lie where the suite looks for what is left behind.
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**kept, "TMPDIR": str(temporary), "XDG_STATE_HOME": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


def test_its_entry_point_is_all_that_a_layer_needs(environment: Environment) -> None:
    code = (
        "import asgi_ipc, asgi_ipc_sqlite, asgi_ipc.engines\n"
        "print(asgi_ipc.__file__); print(asgi_ipc_sqlite.__file__)\n"
        "print(asgi_ipc.engines.available()['sqlite'])\n"
        "layer = asgi_ipc.SyncIPCChannelLayer(engine='sqlite')\n"
        "layer.send('c', {'a': 1}); layer.close()\n"
        "layer = asgi_ipc.SyncIPCChannelLayer(engine='sqlite')\n"
        "print(layer.receive(['c'])); layer.destroy()\n"
    )
    where, engine, reason, received = run(
        [environment.python, "-c", code], environment.folder
    ).splitlines()
    assert where.startswith(str(environment.folder / "venv"))
    assert engine.startswith(str(environment.folder / "venv"))
    assert reason == "None"
    assert received == "('c', {'a': 1})"


def test_the_command_of_its_readme_works(environment: Environment) -> None:
    text = (EXAMPLE / "README.md").read_text()
    (command,) = re.findall(r"^\$ python (-c '.*')$", text, re.M)
    run([environment.python, *shlex.split(command)], environment.folder)
    code = "from asgi_ipc import SyncIPCChannelLayer as L; l = L(engine='sqlite')"
    said = run(
        [environment.python, "-c", f"{code}; print(l.receive(['c'])); l.destroy()"],
        environment.folder,
    )
    assert said == "('c', {})\n"


def test_its_test_module_is_one_line_and_runs_the_whole_suite(environment: Environment) -> None:
    (module,) = (EXAMPLE / "tests").glob("test_*.py")
    assert len(module.read_text().splitlines()) == 1
    shutil.copy(sampled_suite.__file__, environment.tests)
    # pytest-xdist would not tell how many are left out.
    said = environment.pytest("-rs", *(("-n", "2") if ALL else ("-p", "sampled_suite")))
    chosen = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", said)}
    assert chosen["passed"] > (150 if ALL else 70)
    assert chosen["passed"] + chosen.get("deselected", 0) > 150
    # What it declines, and nothing else, is skipped; and it has no shared memory.
    reasons = {line.partition(": ")[2] for line in re.findall(r"^SKIPPED (.*)$", said, re.M)}
    assert {reason.replace("sqlite", "").strip() for reason in reasons} <= {
        "declares no wakes",
        "declares no owners",
        "declares no inspects",
        "declares no lease",
        "declares no outage",
        "declares no roles",
        "no --engine-proxy names the option with the server's address",
        "has no segment: it is not a shared-memory engine",
    }, reasons


def test_its_bells_signal_within_a_process(environment: Environment) -> None:
    (environment.tests / "waking.py").write_text(WAKING)
    said = environment.pytest(
        "-o", "addopts=-p asgi_ipc.conformance.plugin --engine waking:WakingEngine",
        "-k", "TestWaiting",
    )  # fmt: skip
    assert re.search(r"\d\d passed", said)
    assert "skipped" not in said


def test_a_full_disk_is_a_full_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    module: Any = importlib.import_module("asgi_ipc_sqlite")

    engine = module.SQLiteEngine(
        "full", channel_memory=1 << 24, group_memory=1 << 20, directory=tmp_path
    )
    try:
        engine.push([Record(b"q", b"before", 1 << 62, 9)])
        (pages,) = engine._db.execute("PRAGMA page_count").fetchone()
        engine._db.execute(f"PRAGMA max_page_count={pages + 4}")
        big = [Record(b"q", b"x" * 100_000, 1 << 62, 9)] * 2
        assert [each.no_room for each in engine.push(big)] == [True, True]
        assert [each.payload for each in engine.pop(b"q", 9)] == [b"before"]
    finally:
        engine.destroy()
    assert os.listdir(tmp_path) == []


#: Another module takes a lock of its own before a fork, after the engine has taken all of its own:
#: what is registered first comes last. The holder of that lock uses the engine, as a finalizer may.
_FORK_IN_THE_MIDDLE = """
import os, sys, threading, time
foreign, holding = threading.Lock(), threading.Event()
os.register_at_fork(
    before=foreign.acquire, after_in_parent=foreign.release, after_in_child=foreign.release
)
import asgi_ipc_sqlite
from asgi_ipc import SyncIPCChannelLayer

options = dict(engine=asgi_ipc_sqlite.SQLiteEngine, engine_options={"directory": sys.argv[1]})
layer = SyncIPCChannelLayer(**options)

def send():
    with foreign:
        holding.set()
        while not asgi_ipc_sqlite._forking:
            time.sleep(0.001)
        time.sleep(0.05)
        for number in range(5):
            layer.send("channel", {"n": number})
    layer.send("channel", {"n": 5})

thread = threading.Thread(target=send)
thread.start()
holding.wait()
child = os.fork()
if not child:
    layer.send("other", {})
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
print([layer.receive(["channel"], True, 10)[1]["n"] for _ in range(6)])
print(layer.receive(["other"], True, 10)[0])
layer.close()
"""


#: While a thread forks, with the locks of all engines, another opens one and uses it.
_BIRTH_IN_THE_MIDDLE = """
import os, sys, threading, time
thread = threading.Thread(target=lambda: late.append(opened()))
os.register_at_fork(before=lambda: (thread.start(), time.sleep(0.3)))
import asgi_ipc_sqlite

def opened():
    return asgi_ipc_sqlite.SQLiteEngine(
        "store", channel_memory=1 << 20, group_memory=1 << 20, directory=sys.argv[1]
    )

engine, late = opened(), []
child = os.fork()
if not child:
    print(len(list(asgi_ipc_sqlite._engines.alive())), flush=True)
    engine.statistics()
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
late[0].statistics()
engine.destroy()
"""


#: Threads use an engine while another forks, slowly: it has locked all engines, or waits for one
#: that a thread is in. Under load either lasts longer than a send is made to wait.
_SLOW_FORK = """
import os, sys, threading, time
slow = threading.Event()
os.register_at_fork(before=slow.wait)
import asgi_ipc_sqlite
from asgi_ipc import SyncIPCChannelLayer

asgi_ipc_sqlite.FORK_PATIENCE = (0.2, 1.0)

def opened(prefix):
    return SyncIPCChannelLayer(
        prefix, engine=asgi_ipc_sqlite.SQLiteEngine, engine_options={"directory": sys.argv[1]}
    )

layers = [opened("a"), opened("b")]
for layer in layers:
    layer.send("channel", {})
first, last = sorted(asgi_ipc_sqlite._engines.alive(), key=id)
layer = layers[first._folder.name == "b"]

def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)

def use():
    layer.send("channel", {"n": 1})  # Is left for later.
    print(bool(layer.global_statistics()))

def is_free(lock):
    free = lock.acquire(False)
    if free:
        lock.release()
    return free

inside, leave = threading.Event(), threading.Event()

def hold():
    with last._locked():
        inside.set()
        leave.wait()

holder = threading.Thread(target=hold)
if sys.argv[2] == "collecting":
    slow.set()
    holder.start()
    inside.wait()
forking = threading.Thread(target=fork)
forking.start()
while not asgi_ipc_sqlite._forking or is_free(first._lock):
    time.sleep(0.01)
user = threading.Thread(target=use)
user.start()
# Longer than a send waits; and while an engine is awaited longer than an answer, too.
user.join(0.6 if sys.argv[2] == "locked" else 2.0)
slow.set()
leave.set()
for each in (user, forking):
    each.join()
for each in layers:
    each.destroy()
"""


@pytest.mark.parametrize("stage", ["locked", "collecting"])
def test_an_answer_waits_for_a_slow_fork_though_a_send_was_left_for_later(
    stage: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _SLOW_FORK, str(tmp_path), stage]
    there = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=there)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_no_engine_is_carried_across_a_fork_that_began_without_it(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _BIRTH_IN_THE_MIDDLE, str(tmp_path)]
    there = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=there)
    assert done.stdout == "1\n0\n", done.stderr


def test_a_fork_ends_though_another_thread_holds_a_lock_that_it_waits_for(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORK_IN_THE_MIDDLE, str(tmp_path)]
    there = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=there)
    assert done.stdout == "0\n[0, 1, 2, 3, 4, 5]\nother\n", done.stderr
