"""Hints at what a process is, of this one and of others, also without ``/proc``."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from asgi_ipc.engines import process_hints
from asgi_ipc.engines.process_hints import (
    command,
    parent_command,
    start_ticks,
    start_time,
    without_secrets,
)

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")


@needs_proc
def test_a_process_has_its_command_line_and_start() -> None:
    began = time.time()
    code = "print(flush=True)\n\ninput()  # \x1b[31m"
    with subprocess.Popen(
        [sys.executable, "-c", code, "an argument"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ticks = start_ticks(child.pid)
        told = command(child.pid, ticks, 0.0)
        assert told.endswith("-c print(flush=True) input() # [31m an argument")
        assert abs(start_time(ticks) - began) < 60
        assert command(child.pid, ticks + 1, 0.0) == "", "another one"
        child.communicate(b"\n")
    assert command(child.pid, ticks, 0.0) == ""


@needs_proc
def test_a_child_of_multiprocessing_has_the_command_line_of_its_program() -> None:
    own = command(os.getpid(), start_ticks(), 0.0)
    code = "print(flush=True); input()  # from multiprocessing.spawn import spawn_main"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        told = command(child.pid, start_ticks(child.pid), 0.0)
        assert parent_command(child.pid, told) == own
        assert parent_command(child.pid, f"{told} elsewhere") == "", "another machine's"
        assert parent_command(os.getpid(), own) == "", "it tells enough of itself"
        child.communicate(b"\n")


def test_nothing_is_told_of_no_process() -> None:
    assert command(0, 0, 0.0) == command(-1, 5, 0.0) == ""
    assert start_time(0) == 0.0
    assert start_ticks(1 << 60) == 0


def test_without_proc_ps_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {
        "1": b"   02:03 python serve.py\n",
        "2": b"1-00:00:05 daemon --now",
        "3": b"",
        "4": b"-",
    }

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        assert words[0] == "ps"
        return subprocess.CompletedProcess(words, 0, lines[words[-1]])

    monkeypatch.setattr(subprocess, "run", run)
    assert command(1, 0, 120.0) == "python serve.py"
    assert command(1, 0, 200.0) == "", "it is younger than the slot: another one"
    assert command(2, 0, 86_000.0) == "daemon --now"
    assert command(3, 0, 0.0) == command(4, 0, 0.0) == ""


def test_a_ps_that_can_not_be_run_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise FileNotFoundError("ps")

    monkeypatch.setattr(subprocess, "run", run)
    assert process_hints.command(os.getpid(), 0, 0.0) == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["relay", "--relay", "redis://:s3cr3t@h:1/0"], "relay --relay redis://...@h:1/0"),
        (["--relay=redis://u:s3/cr3t@h", "x"], "--relay=redis://...@h x"),
        (["--relay-option", "password=s3cr3t", "x"], "--relay-option password=... x"),
        (["--relay-option=keys=['s3cr3t', 's3cr3t']", "x"], "--relay-option=keys=... x"),
        (["{'keys': ['" + "0a" * 32 + "']}"], "{'keys': ['...']}"),
        (["--relay-option", "s3cr3t"], "--relay-option ..."),
        (["--relay-channel", "a=b", "--relay", "redis://h"], None),
    ],
)
def test_a_command_line_is_told_without_secrets(words: list[str], told: str | None) -> None:
    assert " ".join(without_secrets(words)) == (told or " ".join(words))


def test_of_words_that_are_not_whole_what_follows_a_secret_is_left_out() -> None:
    words = ["relay", "--relay-option", "keys=['s3cr3t',", "'s3cr3t']", "--relay", "redis://h"]
    told = " ".join(without_secrets(words, are_whole=False))
    assert told == "relay --relay-option keys=... --relay redis://h"


@needs_proc
def test_the_command_line_of_a_process_is_told_without_secrets() -> None:
    words = ["--relay", "redis://:s3cr3t@h", "--relay-option", "keys=['s3cr3t', 's3cr3t']"]
    long = ["x" * 100] * 38 + ["redis://:s3cr3t" + "y" * 900 + "@h"]
    for more in (words, long):
        code = "print(flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            told = command(child.pid, start_ticks(child.pid), 0.0)
            child.communicate(b"\n")
        assert "input()" in told
        assert "s3cr3t" not in told
