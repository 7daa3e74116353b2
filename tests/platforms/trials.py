"""What is tried on each platform: doctor, the conformance suite, and processes that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .base import Machine, Platform

#: Seconds that trials may take on this machine's own Python.
_DOCTOR, _SUITE, _KILLS = 300, 900, 300
_SOAK_SECONDS = 15
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error|errors)\b")


class Outcome(NamedTuple):
    """What became of a trial: "passed", "failed", "refused" or "not run"; and more about it."""

    verdict: str
    detail: str
    #: For the log, where it failed.
    output: str = ""


class _Run(NamedTuple):
    status: int | None
    output: str


def _run(
    machine: Machine, folder: str, arguments: Sequence[str], path: Sequence[str], seconds: int
) -> _Run:
    """Run Python there; its exit status is None, and all that it started ended, after a time."""
    environment: Mapping[str, str] = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": "/tmp",
    }
    start = "import os, runpy, sys; os.chdir(sys.argv[1]); sys.argv[:3] = [sys.argv[2]]; "
    start += "sys.path[0] = os.getcwd(); runpy.run_module(sys.argv[0], run_name='__main__')"
    command = machine.command(["-c", start, folder, *arguments], environment)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return _Run(process.returncode, output)
    except subprocess.TimeoutExpired:
        return _Run(None, "")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def doctor(platform: Platform, machine: Machine) -> tuple[Outcome, dict[str, str]]:
    """Run the doctor; its outcome, and of each engine "" if it works there or why it does not."""
    arguments = ["asgi_ipc", "doctor", "--json", "--engine", "mmap"]
    done = _run(machine, "/", arguments, [machine.site], _DOCTOR * platform.patience)
    begin = done.output.find("{")
    if done.status is None:
        return Outcome("failed", "the doctor gave no answer"), {}
    try:
        report = json.loads(done.output[begin:])
    except ValueError:
        lines = done.output.strip().splitlines()
        return Outcome("failed", lines[-1][:120] if lines else "no report", done.output), {}
    engines = {each["name"]: "" if each["works"] else each["detail"] for each in report["engines"]}
    about = report["system"]
    what = f"{about['implementation']} {about['python']}, {about['bits']} bits, "
    what += f"{about['byte_order']}-endian, {about['machine']}"
    shared = [name for name in engines if name != "memory"]
    if platform.refused:
        there = [name for name in shared if "is not installed" not in engines[name]]
        wrong = [name for name in there if platform.refused not in engines[name]]
        if wrong:
            return Outcome(
                "failed", f"{what}: not refused: {', '.join(wrong)}", done.output
            ), engines
        return Outcome("refused", f"{what}: {engines['mmap']}"), engines
    works = [name for name in shared if not engines[name]]
    failed = [
        each["title"] for each in report["primitives"] if each["works"] is False and each["needed"]
    ]
    verdict = "passed" if "mmap" in works and not failed else "failed"
    detail = f"{what}: {', '.join(works) or 'no engine'}"
    return Outcome(verdict, detail + "".join(f"; {each}" for each in failed), done.output), engines


def conformance(platform: Platform, machine: Machine, engines: Sequence[str]) -> Outcome:
    """Run the suite, or the part of it that the platform states, on those engines."""
    modules = [f"asgi_ipc.conformance.{name}" for name in platform.part]
    arguments = ["pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--tb=short"]
    arguments += [f"--engine={engine}" for engine in engines]
    arguments += ["-p", "asgi_ipc.conformance.plugin", "--pyargs"]
    arguments += modules or ["asgi_ipc.conformance"]
    done = _run(machine, "/tmp", arguments, [machine.site], _SUITE * platform.patience)
    if done.status is None:
        return Outcome("failed", "the suite did not end")
    lines = done.output.strip().splitlines()
    counts = {word: int(number) for number, word in _COUNTS.findall(lines[-1] if lines else "")}
    told = ", ".join(f"{number} {word}" for word, number in counts.items())
    if platform.part:
        told += f" of {len(platform.part)} modules"
    told += f" on {', '.join(engines)}"
    if done.status:
        failed = re.findall(r"^FAILED .*::(\S+)", done.output, re.MULTILINE)
        return Outcome("failed", f"{told}: {', '.join(failed[:5])}", done.output)
    return Outcome("passed", told, done.output)


def kills(platform: Platform, machine: Machine, engine: str) -> Outcome:
    """Have processes killed and stopped at random while they send, receive, join and leave."""
    arguments = ["tests.torture", "soak", "--engine", engine]
    arguments += ["--seconds", str(_SOAK_SECONDS * platform.patience)]
    seconds = (_KILLS + _SOAK_SECONDS) * platform.patience
    done = _run(machine, machine.checkout, arguments, [machine.checkout, machine.site], seconds)
    if done.status is None:
        return Outcome("failed", "it did not end")
    lines = done.output.strip().splitlines()
    last = lines[-1].strip()[:160] if lines else "nothing said"
    return Outcome("failed" if done.status else "passed", last, done.output)
