"""The documents in docs/: their code runs, their links lead, what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from asgi_ipc import SyncIPCChannelLayer
from asgi_ipc.exceptions import StoreUnavailable
from tests.tools.commands import check
from tests.tools.documents import DOCS, README, ROOT, USERS, blocks
from tests.tools.layers import engine_of
from tests.tools.stores import spoil
from tests.tools.suite_runs import WITHOUT

RELAYS = DOCS / "relays.md"
ENGINE = DOCS / "writing-an-engine.md"
WIRE = DOCS / "writing-a-wire.md"
BEYOND = DOCS / "beyond.md"
COMMANDS = DOCS / "commands.md"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with the module that the document builds."""
    (tmp_path / "shelf.py").write_text("\n".join(blocks(ENGINE, "python")))
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=folder,
        env={**os.environ, **WITHOUT, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_the_engine_of_the_document_passes_the_whole_suite_by_the_command_it_gives(
    shelf: Path,
) -> None:
    command, *of_a_server = re.findall(
        r"^\$ python -m (asgi_ipc.conformance .*)$", "".join(blocks(ENGINE, "console")), re.M
    )
    assert len(of_a_server) == 2
    assert all("--engine mine" in each for each in of_a_server)
    words = ["2" if word == "auto" else word for word in command.split()]
    said = run(shelf, "-m", *words, "-q", "-rs", "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) > 150
    reasons = set(re.findall(r"shelf:ShelfEngine (declares no \w+|has no segment)", said))
    assert reasons == {
        "declares no crosses_processes",
        "declares no owners",
        "declares no blocking",
        "declares no bounded",
        "declares no inspects",
        "declares no lease",
        "declares no outage",
        "declares no roles",
        "has no segment",
    }


def test_the_module_of_one_line_runs_the_suite_too(shelf: Path) -> None:
    (line,) = blocks(ENGINE, "text")
    (shelf / "test_it.py").write_text(line)
    (module,) = (ROOT / "examples" / "third_party_engine" / "tests").glob("test_*.py")
    assert module.read_text().startswith(line.strip())
    (addopts,) = re.findall(r'`addopts = \["(.*"shelf)"\]`', ENGINE.read_text())
    chosen = [*addopts.replace('"', "").split(", ")[:-1], "shelf:ShelfEngine", "-k", "TestTables"]
    said = run(shelf, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py", *chosen)
    assert re.search(r"\d\d passed", said)


def test_the_engine_of_the_document_is_chosen_as_it_says(shelf: Path) -> None:
    code = """
from asgi_ipc import SyncIPCChannelLayer
from shelf import ShelfEngine
for engine in ("shelf:ShelfEngine", {expression}):
    layer = SyncIPCChannelLayer(engine=engine)
    layer.send("c", {{"n": 1}})
    print(layer.receive(["c"]))
    layer.close()
"""
    (expression,) = re.findall(r"`engine=(ShelfEngine\(.*\))`", ENGINE.read_text())
    said = run(shelf, "-c", code.format(expression=expression))
    assert said == "('c', {'n': 1})\n" * 2


def test_the_trial_of_a_wire_joins_two_stores(tmp_path: Path) -> None:
    (code,) = blocks(WIRE, "python")
    (tmp_path / "trial.py").write_text(code)
    assert "`python trial.py mine://127.0.0.1:4000`" in WIRE.read_text()
    assert run(tmp_path, "trial.py", "memory://trial").count("greeting") == 2


def test_the_commands_for_porters_are_such_as_work(tmp_path: Path) -> None:
    text = (DOCS / "porting.md").read_text()
    text += (ROOT / "asgi_ipc" / "engines" / "shm" / "segment_example.py").read_text()
    commands = set(re.findall(r"\bpython -m (asgi_ipc\.conformance.*?)[`\n]", text))
    assert len(commands) >= 4
    for command in commands:
        words = re.sub(r"my\.module:\w+", "mmap", command).replace("-n auto", "").split()
        said = run(tmp_path, "-m", *words, "--collect-only", "-q", "-p", "no:cacheprovider")
        assert re.search(r"\d\d tests collected", said), command


def test_the_entry_point_of_the_document_is_in_the_group_that_is_asked() -> None:
    from asgi_ipc.engines import ENTRY_POINT_GROUP

    (toml,) = blocks(ENGINE, "toml")
    assert f'[project.entry-points."{ENTRY_POINT_GROUP}"]' in toml
    example = (ROOT / "examples" / "third_party_engine" / "pyproject.toml").read_text()
    assert toml.splitlines()[0] in example


def links(text: str) -> list[str]:
    """The targets of links in the text, and of those named at its end."""
    return re.findall(r"\]\(\s*([^)]+)\)", text) + re.findall(r"^\[.+\]: (\S+)$", text, re.M)


def anchors(document: Path) -> set[str]:
    """What a link may name in a document."""
    return {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    }


#: How addresses of this project's own files begin: README.md, which the package index shows
#: without the others, has only such.
OWN = re.compile(
    r"https://(?:github\.com/django/asgi_ipc/(?:blob|tree)|raw\.githubusercontent\.com/django/asgi_ipc)"
    r"/main/"
)
EVERY = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.glob("*.md")),
    ROOT / "examples" / "third_party_engine" / "README.md",
]


@pytest.mark.parametrize("document", EVERY, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in links(text):
        path, _, anchor = target.partition("#")
        own = OWN.match(path)
        if re.match("https?:", path) and not own:
            continue
        found = ROOT / path[own.end() :] if own else document.parent / path if path else document
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target
    for path in re.findall(r"`((?:asgi_ipc|conformance|tests|examples|docs)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_python_block_is_of_a_kind_that_is_run(document: Path) -> None:
    run_here = (
        *(ENGINE, WIRE, BEYOND, RELAYS, COMMANDS),
        *(DOCS / name for name in ("format.md", "django.md", "testing.md")),
    )
    # What `test_readme` and `test_tutorial` run.
    of_users = {page.name for page in USERS}
    assert not blocks(document, "python") or document in run_here or document.name in of_users


def test_the_settings_of_the_relay_document_make_a_layer(tmp_path: Path) -> None:
    """Without its server, as a site starts."""
    found: dict[str, Any] = {}
    (settings,) = blocks(RELAYS, "python")
    exec(settings, found)
    config = found["CHANNEL_LAYERS"]["default"]["CONFIG"]
    layer = SyncIPCChannelLayer(**config, engine="mmap", engine_options={"directory": tmp_path})
    layer.send("work", {"type": "it.works"})
    assert layer.receive(["work"]) == ("work", {"type": "it.works"})
    layer.destroy()


def test_the_relay_document_explains_every_reason_for_which_relays_drop() -> None:
    text = RELAYS.read_text()
    code = "".join(path.read_text() for path in (ROOT / "asgi_ipc" / "relay").glob("*.py"))
    reasons = re.findall(r'(?:\.dropped\(|NoFrame\(|return )"([a-z ]+)"', code)
    assert len(reasons) > 10
    assert {reason for reason in reasons if f"`{reason}`" not in text} == set()


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda each: each.name)
def test_tables_are_whole_and_no_row_comes_twice(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        _, rule, *rows = table.splitlines()
        assert set(rule) <= set("|-: "), table
        beginnings = [row.rpartition(" | ")[0] for row in rows if row.count(" | ") == 1]
        assert len(beginnings) == len(set(beginnings)), table


def test_the_consumer_of_the_document_handles_a_message_without_a_hop(tmp_path: Path) -> None:
    pytest.importorskip("channels")
    *_, code, _ = blocks(DOCS / "django.md", "python")
    driver = """
import asyncio
from channels import consumer
from django.conf import settings

settings.configure()

async def no_hop():
    raise AssertionError("it hopped")

async def send(message):
    print(message)

consumer.aclose_old_connections = no_hop
chat = Chat()
chat.base_send = send
asyncio.run(chat.dispatch({"type": "chat.message", "text": "hello"}))
"""
    assert run(tmp_path, "-c", code + driver) == "{'type': 'websocket.send', 'text': 'hello'}\n"


def test_the_consumer_of_the_document_leaves_its_group_although_its_client_has_left(
    tmp_path: Path,
) -> None:
    pytest.importorskip("channels")
    *_, code = blocks(DOCS / "django.md", "python")
    driver = """
import asyncio
import django
from channels.layers import get_channel_layer
from django.conf import settings

settings.configure(
    CHANNEL_LAYERS={
        "default": {"BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": {"engine": "memory"}}
    },
)
django.setup()
exec(CODE)

class Left(Exception):
    pass

async def main():
    layer, accepted = get_channel_layer(), asyncio.Event()

    async def receive():
        if accepted.is_set():
            await asyncio.sleep(60)
        return {"type": "websocket.connect"}

    async def send(message):
        if message["type"] != "websocket.accept":
            raise Left
        accepted.set()

    chat = asyncio.create_task(Chat.as_asgi()({"type": "websocket"}, receive, send))
    await accepted.wait()
    print(len(await layer.group_channels("chat")))
    await layer.group_send("chat", {"type": "chat.message", "text": "hello"})
    try:
        await chat
    except Left:
        print(await layer.group_channels("chat"))
    await layer.close()

asyncio.run(asyncio.wait_for(main(), 60))
"""
    assert run(tmp_path, "-c", f"CODE = {code!r}\n{driver}").splitlines()[-2:] == ["1", "[]"]


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_table_has_a_head(document: Path) -> None:
    """A merge may leave an empty line in one, behind which rows are plain text."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert re.match(r"\|.*\n\|[ :|-]+\|\n", table), table.splitlines()[0]


def test_the_metrics_of_the_document_are_those_of_the_layer(tmp_path: Path) -> None:
    driver = """
from asgi_ipc import SyncIPCChannelLayer
layer = SyncIPCChannelLayer(engine="memory")
layer.send("a", {{}})
{}
from prometheus_client import generate_latest
print([line for line in generate_latest().decode().splitlines() if "messages_pending{{" in line])
"""
    code = driver.format("\n".join(blocks(COMMANDS, "python")))
    said = run(tmp_path, "-c", code)
    assert re.fullmatch(r"\['asgi_ipc_messages_pending\{.*\} 1.0'\]\n", said), said


def test_the_consumer_of_the_document_rejoins_and_the_signal_is_sent(tmp_path: Path) -> None:
    pytest.importorskip("channels")
    installed, consumer, signal, *_ = blocks(DOCS / "django.md", "python")
    driver = """
import asyncio
import django
from channels.layers import get_channel_layer
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core import mail

settings.configure(
    INSTALLED_APPS=INSTALLED_APPS,
    CHANNEL_LAYERS={
        "default": {"BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": {"engine": "memory"}}
    },
    ADMINS=[("Ada", "ada@example.com")],
    EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend",
)
django.setup()
mail.outbox = []
exec(CODE)

async def main():
    client = ApplicationCommunicator(Chat.as_asgi(), {"type": "websocket", "path": "/"})
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output(60))["type"] == "websocket.accept"
    layer = get_channel_layer()
    await layer.flush()
    while not await layer.group_channels("chat") or not mail.outbox:
        await asyncio.sleep(0.01)
    await layer.group_send("chat", {"type": "chat.message", "text": "back"})
    print((await client.receive_output(60))["text"], len(await layer.group_channels("chat")))
    print(mail.outbox[0].body, len(mail.outbox))
    await client.send_input({"type": "websocket.disconnect", "code": 1000})
    await client.wait(60)
    await layer.close()

asyncio.run(asyncio.wait_for(main(), 120))
"""
    code = f"{installed}\nCODE = {consumer + signal!r}\n{driver}"
    lines = run(tmp_path, "-W", "ignore::DeprecationWarning", "-c", code).splitlines()
    assert [line for line in lines if not line.startswith("store ")] == [
        "back 1",
        "The store asgi was flushed or replaced. 1",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("signed.py", "('orders', {'item': 7})\n"),
        ("whisper.py", "hi\n0 dropped, 2 in the room\n"),
        ("presence.py", "0 joined, 0 left\n1 joined, 0 left\n"),
    ],
)
def test_the_programs_of_what_goes_beyond_the_specification_work(
    tmp_path: Path, name: str, said: str
) -> None:
    programs = {block.partition("\n")[0]: block for block in blocks(BEYOND, "python")}
    assert len(programs) == 3
    prefix = f"docs-{uuid.uuid4().hex[:12]}"
    code, changes = re.subn('prefix="[a-z]+"', f'prefix="{prefix}"', programs[f"# {name}"])
    assert changes == 1
    try:
        assert run(tmp_path, "-c", code) == said
    finally:
        SyncIPCChannelLayer(prefix=prefix).destroy()


def test_the_check_that_is_called_from_python_finds_and_removes_what_is_not_sound(
    tmp_path: Path,
) -> None:
    (code,) = blocks(DOCS / "format.md", "python")
    prefix = f"docs-{uuid.uuid4().hex[:12]}"
    code = code.replace('"mysite"', repr(prefix))
    layer = SyncIPCChannelLayer(prefix=prefix)
    try:
        layer.send("c", {"n": 1})
        assert run(tmp_path, "-c", code) == ""
        assert layer.receive(["c"]) == ("c", {"n": 1})
        spoil(engine_of(layer))
        assert "queues" in run(tmp_path, "-c", code)
        with pytest.raises(StoreUnavailable, match="no store"):
            check(prefix)
    finally:
        layer.destroy()


def test_the_platform_is_asked_in_one_place_as_the_documents_say() -> None:
    """The doctor may: it tells people where they are."""
    asking = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "asgi_ipc").rglob("*.py"))
        if re.search(r"\bsys\.platform\b|\bos\.uname\b|^import platform", path.read_text(), re.M)
        and path.parent.name != "doctor"
    ]
    (location,) = asking
    for name in ("design.md", "porting.md"):
        assert location in (DOCS / name).read_text()


#: Where no line but a table's may be longer; the others are wrapped by their makers.
WRAPPED = [
    path for path in EVERY if path.name not in ("performance.md", "CHANGELOG.md") and path != README
]


@pytest.mark.parametrize("document", WRAPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_is_too_long(document: Path) -> None:
    lines = document.read_text().splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_module_and_name_in_backticks_exists(document: Path) -> None:
    """Such as `lock_file.py` and `Journal.commit`: a renaming fails here until documents follow."""
    sources = "\n".join(path.read_text() for path in (ROOT / "asgi_ipc").rglob("*.py"))
    files = {
        path.name
        for folder in ("asgi_ipc", "conformance", "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    for name in re.findall(r"`(\w+\.py)`", document.read_text()):
        assert name in files or name == "shelf.py", name
    for name in re.findall(r"`[A-Z]\w+\.(\w+)`", document.read_text()):
        assert re.search(rf"\b(def|class) {name}\b|\b{name}\b *[:=]", sources), name


def test_every_document_is_in_the_navigation_of_the_site() -> None:
    """`make docs` fails otherwise, and is not run by everyone."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w-]+\.md)$", navigation, re.M)
    assert sorted(named) == sorted(
        ["changelog.md", "contributing.md", *(path.name for path in DOCS.glob("*.md"))]
    )


def test_the_figures_of_the_first_page_are_those_of_the_last_run() -> None:
    row = re.search(
        r"^\| round trip, two processes, p50 µs \|(.*)\|$",
        (DOCS / "performance.md").read_text(),
        re.M,
    )
    assert row is not None
    posix, *_, pubsub, _, _, _ = (cell.strip() for cell in row[1].split("|"))
    first = " ".join((DOCS / "index.md").read_text().split())
    assert f"at once need {posix} µs for a round trip" in first
    assert f"channels_redis pubsub needs {pubsub} µs" in first
