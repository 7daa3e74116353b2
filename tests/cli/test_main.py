"""The frame of the command line: help, errors, exit statuses, and a site's settings."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from asgi_ipc import __version__, exceptions
from asgi_ipc.cli.arguments import engine_option
from asgi_ipc.cli.main import COMMANDS, StoreChoice
from asgi_ipc.engines.shm.mmap import MmapEngine
from tests.cli.conftest import Commands, MakeLayer

PROGRAM = [sys.executable, "-W", "error", "-m", "asgi_ipc"]


def test_help_lists_the_commands_and_each_has_its_own(command: Commands) -> None:
    listed = command("--help").out
    for name, module in COMMANDS.items():
        assert f"\n  {name} " in listed
        assert import_module(module).command.name == name
        status, out, _ = command(name, "-h")
        assert status == 0
        assert out.startswith(f"Usage: asgi-ipc {name} ")
        assert name in ("list", "completion") or "PREFIX" in out
        without = ("tail", "top", "metrics", "relay", "completion")
        assert name in without or "print JSON with stable keys" in out
        assert max(map(len, out.splitlines())) <= 100
    assert command("--version").out == f"asgi_ipc {__version__}\n"


def test_wrong_arguments_end_with_2_and_say_what_is_meant(command: Commands, parent: Path) -> None:
    for arguments, text in (
        (["pin"], "did you mean 'ping'"),
        (["frobnicate"], "there are list, stats"),
        (["stats"], "Missing argument 'PREFIX'"),
        (["stats", "site", "--engine-option", "x"], "'x' is not KEY=VALUE"),
        (["stats", "../site"], "prefix is '../site'"),
        (["stats", "site", "--count", "2"], "--count goes with --watch"),
        (["stats", "site", "--engine", "posiks"], "did you mean 'posix'"),
        (["check", "site", "--engine", "foo"], "there is no engine 'foo'"),
        (["check"], "no PREFIX given"),
        (["remove"], "no PREFIX given"),
        (["remove", "site", "--stale"], "not both"),
        (["list", "--directory", str(parent / "none")], "there is no directory"),
        (["stats", "\x1b[31m"], r"prefix is '\x1b[31m'"),
        (["\x1b[31m"], r"no such command '\\x1b[31m'"),
    ):
        status, out, err = command(*arguments)
        assert (status, out) == (2, "")
        assert text in err, err


def _errors() -> list[type[Exception]]:
    """All errors of the package, without those that are about a program's own arguments."""
    return [
        each
        for name in exceptions.__all__
        if not issubclass(each := getattr(exceptions, name), ValueError)
    ]


@pytest.mark.parametrize("error", _errors(), ids=lambda error: error.__name__)
def test_every_error_of_the_package_is_one_line_and_2(
    error: type[Exception], command: Commands, make_layer: MakeLayer
) -> None:
    make_layer()

    def refuses(*_: object, **__: object) -> None:
        raise error() if error is exceptions.Reentered else error("it is full; make room")

    for arguments in (("tail", "site", "news"), ("stats", "site"), ("drain", "site")):
        with pytest.MonkeyPatch.context() as patch:
            # The commands join the store so.
            patch.setattr(MmapEngine, "of_existing", refuses)
            ended = command(*arguments)
        assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert ended.err.startswith("asgi-ipc: ")


def test_an_option_of_tests_is_not_named(command: Commands, make_layer: MakeLayer) -> None:
    make_layer()
    for engine in ([], ["--engine", "mmap"]):
        ended = command("stats", "site", *engine, "--engine-option", "directry=/srv")
        assert ended.status == 2
        assert "engine mmap has" in ended.err.replace("'", "")
        assert "no option 'directry'; use 'directory', 'group', 'mode'" in ended.err


def test_settings_take_the_place_of_prefix_and_engine(
    command: Commands, make_layer: MakeLayer, tmp_path: Path
) -> None:
    layer = make_layer("other", engine_options={"directory": str(tmp_path / "own")})
    site = StoreChoice(
        "other", "mmap", {"directory": str(tmp_path / "own")}, {"expiry": 5, "capacity": 1}
    )
    assert command("ping", settings=site).status == 0
    assert command("send", "work", '{"type": "a"}', settings=site).status == 0
    assert command("send", "work", '{"type": "a"}', settings=site).status == 1, "its capacity"
    assert command("peek", "work", "--json", settings=site).json()[0]["expires_in"] <= 5
    assert command("check", settings=site).out == "sound\n"
    assert "--engine" not in command("stats", "-h", settings=site).out
    assert command("ping", "other", settings=site).status == 2
    layer.close()
    assert command("remove", "--yes", settings=site).status == 0
    assert "no store of prefix 'other'" in command("stats", settings=site).err


def test_an_engine_object_of_the_settings_is_used_and_left_open(command: Commands) -> None:
    from asgi_ipc.engines.memory import MemoryEngine

    engine = MemoryEngine("own", channel_memory=1 << 20, group_memory=1 << 20)
    site = StoreChoice("own", engine)
    assert command("send", "work", "{}", settings=site).status == 0
    assert command("channels", "--json", settings=site).json()[0]["pending"] == 1
    assert command("flush", "--yes", settings=site).status == 0
    assert engine.statistics()["pending"] == 0
    engine.close()


def test_a_reader_that_goes_away_ends_it_quietly(make_layer: MakeLayer, tmp_path: Path) -> None:
    """Of output that is written at once, and of output that is still buffered at the end."""
    make_layer(engine_options={"directory": str(tmp_path)})
    watched = ["stats", "site", "--watch", "0.1", "--json"]
    for arguments in (["--help"], [*watched, "--directory", str(tmp_path)]):
        with subprocess.Popen(
            [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as program:
            assert program.stdout is not None
            assert program.stderr is not None
            if arguments != ["--help"]:
                assert program.stdout.readline().startswith(b"{")
            program.stdout.close()
            said = program.stderr.read()
            assert program.wait(60) in ((0, 141) if arguments == ["--help"] else (141,))
            assert said == b""


def test_control_c_ends_it_without_a_traceback(make_layer: MakeLayer, tmp_path: Path) -> None:
    layer = make_layer(engine_options={"directory": str(tmp_path)})
    with subprocess.Popen(
        [*PROGRAM, "tail", "site", "news", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert "waiting for messages to news" in program.stderr.readline()
        layer.group_send("news", {"type": "flash", "text": "\x1b[31m"})
        assert program.stdout.readline().endswith(
            ' news {"type": "flash", "text": "\\u001b[31m"}\n'
        )
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130
        assert program.stderr.read().strip() == ""
    assert layer.group_channels("news") == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_relay_ends_by_control_c_with_its_status(
    number: int, status: int, command: Commands, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pause(stop: asyncio.Event, _: float) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()

    monkeypatch.setattr("asgi_ipc.cli.commands.relay._pause", pause)
    assert command("relay", "none", "--relay", "redis://127.0.0.1:1").status == status


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_that_can_not_be_written_is_said() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*PROGRAM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 2
    assert "No space left" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_shell_completes_commands_and_prefixes(
    command: Commands, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_layer("mysite")
    assert "_ASGI_IPC_COMPLETE=bash_complete" in command("completion", "bash").out
    for words, expected in (("asgi-ipc gro", "group-send"), ("asgi-ipc stats my", "mysite")):
        with monkeypatch.context() as patch:
            patch.setenv("_ASGI_IPC_COMPLETE", "bash_complete")
            patch.setenv("COMP_WORDS", words)
            patch.setenv("COMP_CWORD", str(len(words.split()) - 1))
            assert f"plain,{expected}\n" in command().out


@pytest.mark.parametrize("value", ["{{}}", "{[]: 1}", "-" * 100_000 + "1", "(" * 500, "\0"])
def test_an_option_that_is_no_literal_is_a_string(value: str) -> None:
    """It may be a password: no traceback shows it."""
    assert engine_option(f"password={value}") == ("password", value)
