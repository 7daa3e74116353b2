"""Two layers of one process, of which a finalizer uses one in the middle of a call of the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asgi_ipc.engines import available

_REPOSITORY = Path(__file__).parents[2]
#: Two threads, each in the middle of one layer, use the other one, both at the same time.
_CROSSWISE = """
import sys
import threading
from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.exceptions import Reentered

engine, where = sys.argv[1:3]
options = {"directory": sys.argv[3]} if engine != "memory" else {}
layers = [
    SyncIPCChannelLayer(prefix=f"two{n}", engine=engine, engine_options=options) for n in range(2)
]
both, told = threading.Barrier(2), []

def foreign(other):
    try:
        both.wait(3)
    except threading.BrokenBarrierError:
        pass  # One keeps the other out: just as well.
    other.send("channel", {"n": 1})
    try:
        other.global_statistics()
        told.append("answered")
    except Reentered:
        told.append("reentered")

def use(layer, other):
    demux = layer._core.demux
    asked = []

    if where == "layer":
        with demux.lock:
            foreign(other)
        layer.send("late", {})
        return
    inside = demux.engine.inside

    def profile(frame, event, argument):
        if not asked and inside():
            asked.append(1)
            sys.setprofile(None)
            foreign(other)

    sys.setprofile(profile)
    layer.send("own", {"n": 0})
    sys.setprofile(None)
    layer.send("late", {})
    assert asked

threads = [threading.Thread(target=use, args=pair, daemon=True) for pair in (layers, layers[::-1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(any(thread.is_alive() for thread in threads), len(told))
for layer in layers:
    print(layer.receive(["channel"], True, 5)[1], layer.receive(["channel"])[1])
    layer.destroy()
"""


@pytest.mark.parametrize("where", ["layer", "engine"])
@pytest.mark.parametrize("engine", ["memory", "posix"])
def test_two_threads_each_amid_one_layer_use_the_other_and_neither_waits_for_ever(
    engine: str, where: str, tmp_path: Path
) -> None:
    why = available().get(engine)
    if why:
        pytest.skip(why)
    command = [sys.executable, "-c", _CROSSWISE, engine, where, str(tmp_path)]
    done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False 2\n" + 2 * "{'n': 1} None\n", done.stdout + done.stderr
