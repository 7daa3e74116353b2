"""System checks of the layers in ``CHANNEL_LAYERS``: before the first WebSocket fails.

Each check returns all that it finds. docs/django.md has the table of their ids, which stay.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.core import checks, mail

from ..engines import choice
from ..exceptions import EngineUnavailable, OptionError, StoreCorrupt, StoreUnavailable
from ..layers.options import DEFAULT_PREFIX, problems
from ..policy.capacity import Capacities, can_match, can_match_shared
from .settings import Layer, layers

if TYPE_CHECKING:
    from ..cli.sighting import Seen, Sighting

__all__ = ["check_channel_layers"]

_ID = "asgi_ipc."
#: What an entry of ``CHANNEL_LAYERS`` has.
_KEYS = {"BACKEND", "CONFIG", "TEST_CONFIG"}
_EXAMPLE = {"BACKEND": "asgi_ipc.IPCChannelLayer"}
#: Channels 1 had channels of these beginnings; Channels 4 makes none.
_CHANNELS_1 = re.compile(r"(http|websocket)\.")
#: Where the texts of our errors turn from the fault to the remedy.
_FAULT_ENDS = re.compile(r"; |: (?=it must )")
#: Processes and patterns that a text names.
_NAMED = 3


def check_channel_layers(**_: Any) -> list[checks.CheckMessage]:
    """Check every layer of ours in ``CHANNEL_LAYERS``, and what they have in common."""
    found: list[checks.CheckMessage] = [*_entries()]
    usable = []
    for layer in layers(with_tests=True):
        mistakes = [*_backend(layer), *_options(layer)]
        found += mistakes
        if layer.is_plain and not any(each.is_serious() for each in mistakes):
            found += _capacities(layer)
            if layer.key == "CONFIG":
                usable.append(layer)
    found += _together(usable)
    for layer in usable:
        found += _relay(layer)
        found += _store(layer)
    return found


# ---- the settings


def _entries() -> Iterator[checks.CheckMessage]:
    """Check that each entry has the form that Channels reads; it says so only when it is used."""
    configured = getattr(settings, "CHANNEL_LAYERS", {})
    if not isinstance(configured, Mapping):
        yield _no_entry("CHANNEL_LAYERS", f"It is {configured!r}.", {"default": _EXAMPLE})
        return
    for alias, entry in configured.items():
        where = f"CHANNEL_LAYERS[{alias!r}]"
        if not isinstance(entry, Mapping):
            example = {"BACKEND": entry} if isinstance(entry, str) and entry else _EXAMPLE
            yield _no_entry(where, f"It is {entry!r}.", example)
        elif "BACKEND" not in entry:
            yield _no_entry(where, "It has no BACKEND.", _EXAMPLE)


def _no_entry(where: str, said: str, example: Mapping[str, Any]) -> checks.CheckMessage:
    hint = f"It must be a dict such as {example!r}; options go into its CONFIG."
    return checks.Error(said, hint=hint, obj=where, id=_ID + "E009")


def _backend(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Check what surrounds the options."""
    if layer.key != "CONFIG":
        return
    backend = layer.entry.get("BACKEND")
    if layer.backend is None:
        yield checks.Error(
            f"BACKEND is {backend!r}, which is no channel layer.",
            hint="Write 'asgi_ipc.IPCChannelLayer'.",
            obj=layer.where,
            id=_ID + "E006",
        )
    elif layer.is_synchronous:
        yield checks.Error(
            f"BACKEND is {backend!r}, whose methods Channels can't await.",
            hint="Write 'asgi_ipc.IPCChannelLayer'; its attribute sync is for synchronous code.",
            obj=layer.where,
            id=_ID + "E005",
        )
    ignored = [key for key in layer.entry if key not in _KEYS]
    if ignored:
        yield checks.Warning(
            f"Channels ignores {_quoted(ignored)} beside BACKEND and CONFIG.",
            hint="Put options of the layer into CONFIG.",
            obj=layer.where,
            id=_ID + "W005",
        )


def _options(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Check all options, and those of the engine."""
    config = layer.config
    if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):
        yield checks.Error(
            f"{layer.key} is {config!r}.",
            hint="It must be a dict with the names of options, such as {'prefix': 'mysite'}.",
            obj=layer.where,
            id=_ID + "E001",
        )
        return
    if not layer.is_plain:
        return
    wrong = set()
    for problem in problems(config):
        wrong.add(problem.option)
        for text in problem.text.split("\n"):
            yield _error(layer, text, "E001" if problem.known else "E002")
    if not wrong & {"engine", "engine_options"}:
        options = layer.options
        for option, text in choice.problems(options["engine"], options["engine_options"] or {}):
            yield _error(layer, text, "E003" if option == "engine" else "E004")


def _error(layer: Layer, text: str, number: str) -> checks.Error:
    """Return an error; its hint is what our text says after the fault, in sentences."""
    first, *others = text.split("\n")
    said, *remedies = _FAULT_ENDS.split(first, maxsplit=1)
    hint = " ".join(_sentence(each) for each in [*remedies, *others] if each)
    return checks.Error(
        _sentence(said, said[:1]), hint=hint or None, obj=layer.where, id=_ID + number
    )


def _sentence(text: str, first: str | None = None) -> str:
    """End a text as a sentence ends, and begin it as one, or with ``first``."""
    end = "" if text.endswith(("?", "!")) else "."
    return (text[:1].upper() if first is None else first) + text[1:].rstrip(".") + end


def _capacities(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Check the patterns of ``channel_capacity`` and ``relay_channels``."""
    options = layer.options
    globs = [each for each in options["channel_capacity"] or () if isinstance(each, str)]
    vain = [each for each in globs if not can_match(each) or _CHANNELS_1.match(each)]
    if vain:
        yield checks.Warning(
            f"channel_capacity has patterns that match no channel of Channels 4: {_quoted(vain)}.",
            hint="Name channels that runworker reads, by ASCII letters, digits, '-', '_' and '.';"
            " consumers' channels are 'specific.<process>!<random>', and a count on them loses"
            " bursts. Remove patterns for channels of Channels 1.",
            obj=layer.where,
            id=_ID + "W003",
        )
    shared = [each for each in options["relay_channels"] or () if isinstance(each, str)]
    vain = [each for each in shared if not can_match_shared(each) or _CHANNELS_1.match(each)]
    if vain:
        yield checks.Warning(
            f"relay_channels has patterns that match no ordinary channel of Channels 4:"
            f" {_quoted(vain)}.",
            hint="Name channels that runworker reads, by ASCII letters, digits, '-', '_' and '.'."
            " Consumers' channels, 'specific.<process>!<random>', are reached from every machine"
            " without being shared. Remove patterns for channels of Channels 1.",
            obj=layer.where,
            id=_ID + "W003",
        )
    capacities = Capacities(options["capacity"], options["channel_capacity"])
    if capacities.counts_consumers():
        yield checks.Warning(
            "capacity or channel_capacity counts the messages to consumers' channels, so bursts"
            " to them lose messages.",
            hint="Remove capacity, and patterns that match 'specific.*'; process_memory bounds"
            " what consumers leave unread. Name the channels of runworker in channel_capacity.",
            obj=layer.where,
            id=_ID + "W008",
        )
    mixed = capacities.mixed()
    if mixed:
        yield checks.Warning(
            f"channel_capacity counts the messages of channel {mixed[0]} but not those"
            f" of {mixed[1]}, and both lie on one queue.",
            hint="A message to the first is refused when the queue holds that many messages for"
            " whichever of its channels; choose patterns that match all names of the queue or"
            " none.",
            obj=layer.where,
            id=_ID + "W004",
        )


class _Place(NamedTuple):
    """Where a layer's store lies."""

    prefix: str
    engine: object
    options: str

    @classmethod
    def of(cls, layer: Layer) -> _Place:
        options = layer.options
        return cls(
            options["prefix"],
            options["engine"],
            repr(sorted((options["engine_options"] or {}).items())),
        )


def _together(usable: Sequence[Layer]) -> Iterator[checks.CheckMessage]:
    """Check which layers are on one store."""
    first: dict[_Place, Layer] = {}
    directories: dict[str, Layer] = {}
    for layer in usable:
        place = _Place.of(layer)
        other = first.setdefault(place, layer)
        if other is not layer:
            yield checks.Warning(
                f"It has the prefix {place.prefix!r}, engine and engine_options of {other.where},"
                " so both are one store: each gets the other's messages.",
                hint="Give each its own prefix, or use one alias.",
                obj=layer.where,
                id=_ID + "W002",
            )
            continue
        directory = _directory(layer)
        other = directories.setdefault(directory, layer) if directory else layer
        if other is not layer:
            yield checks.Error(
                f"It has the prefix {place.prefix!r} and the directory of {other.where}, and"
                f" another engine; the second to open {directory!r} fails.",
                hint="Give each its own prefix, or its own engine_options['directory'].",
                obj=layer.where,
                id=_ID + "E007",
            )


def _directory(layer: Layer) -> str | None:
    from ..cli.sighting import directory_of

    try:
        return directory_of(_choice_of(layer))
    except (EngineUnavailable, OptionError, StoreUnavailable):
        return None


def _choice_of(layer: Layer) -> Any:
    # Imported late, as most projects start without a look at a store.
    from ..cli.choice import StoreChoice

    options = layer.options
    return StoreChoice(options["prefix"], options["engine"], options["engine_options"] or {})


def _relay(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Check what joins the store to those of other machines."""
    options = layer.options
    if options["relay"] is not None and options["prefix"] == DEFAULT_PREFIX:
        yield checks.Warning(
            f"relay is given, and the prefix is the default, {DEFAULT_PREFIX!r}: with another site"
            " on the same server that has it too, messages and flushes mix.",
            hint="Name the site: prefix='mysite', the same on all its machines, and another for"
            " staging.",
            obj=layer.where,
            id=_ID + "W010",
        )
    if options["relay"] is not None and hasattr(mail, "outbox"):
        yield checks.Warning(
            "This test run has the option relay, so its messages reach all machines of the site"
            " that use the same server.",
            hint="Give each test a store of its own with asgi_ipc.testing, which removes relay; see"
            " docs/testing.md. If the tests do so already, silence asgi_ipc.W006.",
            obj=layer.where,
            id=_ID + "W006",
        )


# ---- the store that is there


def _store(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Check the layer against the store that is there, if there is one, and makes none."""
    from ..cli.sighting import Unanswered, sight

    try:
        seen = sight(_choice_of(layer))
    except Unanswered as error:
        said, _, remedy = str(error).partition("; ")
        yield checks.Warning(
            f"The store was not checked: {said}.",
            hint=f"{remedy[:1].upper()}{remedy[1:]}.",
            obj=layer.where,
            id=_ID + "W009",
        )
        return
    except (EngineUnavailable, OptionError, StoreCorrupt, StoreUnavailable) as error:
        yield _error(layer, str(error), "E008")
        return
    if seen is None:
        return
    options = layer.options
    if seen.processes and hasattr(mail, "outbox"):
        yield checks.Warning(
            f"This test run uses the store at {seen.directory!r}, which other"
            f" processes use: {_processes(seen.processes)}.",
            hint="Give each test a store of its own with asgi_ipc.testing, which also reads"
            " TEST_CONFIG, such as {'engine': 'memory'}; see docs/testing.md. Leave CONFIG, which"
            " is the live site's. If the tests do so already, silence asgi_ipc.W006.",
            obj=layer.where,
            id=_ID + "W006",
        )
        return
    yield from _sizes(layer, seen)
    if options["relay"] is not None and seen.processes:
        yield from _running_relay(layer)
    strangers = list(filter(_is_strange(), seen.processes))
    if strangers and options["prefix"] == DEFAULT_PREFIX:
        yield checks.Warning(
            f"The prefix is the default, {DEFAULT_PREFIX!r}, and processes of"
            f" another folder use its store: {_processes(strangers)}.",
            hint="Give each site a prefix of its own, or their messages and groups mix.",
            obj=layer.where,
            id=_ID + "W001",
        )


def _sizes(layer: Layer, seen: Sighting) -> Iterator[checks.CheckMessage]:
    options = layer.options
    for name, size in seen.sizes.items():
        if options[name] <= size < options[name] + _PAGE:
            continue
        yield checks.Warning(
            f"{name} is {options[name]:,}, but the store at {seen.directory!r} was"
            f" made with {size:,}, and keeps that size.",
            hint="To resize it, end its processes and remove it (manage.py asgi_ipc remove), which"
            " drops what it holds.",
            obj=layer.where,
            id=_ID + "W007",
        )


def _running_relay(layer: Layer) -> Iterator[checks.CheckMessage]:
    """Compare the settings with the relay that runs, or with processes that would run one."""
    from ..cli.relay_differences import differences_of

    options = layer.options
    relay = {name: options[name] for name in ("relay", "relay_options", "relay_channels")}
    differs = differences_of(_choice_of(layer), relay)
    if differs:
        yield checks.Warning(
            f"The relay that runs has other options than these settings: {'; '.join(differs)}.",
            hint="Restart the site, and its dedicated relay, once the settings are right; all its"
            " processes must have the same.",
            obj=layer.where,
            id=_ID + "W011",
        )


#: Sizes are rounded up to whole pages, of at most so many bytes.
_PAGE = 1 << 16


def _is_strange() -> Callable[[Seen], bool]:
    """Return what tells a process of another site, as far as its folder and command line say."""
    from ..cli.sighting import folder_of

    own = {os.getcwd(), _project()}

    def is_strange(process: Seen) -> bool:
        folder = folder_of(process.pid)
        if folder is None:
            return False  # Another container's, perhaps; nothing is known of it.
        places = [folder, *(word for word in process.command.split() if word.startswith("/"))]
        return not any(_is_below(place, each) for place in places for each in own)

    return is_strange


def _project() -> str:
    """Return the folder of the project."""
    base = getattr(settings, "BASE_DIR", None)
    if base:
        return os.path.abspath(str(base))
    module = os.environ.get("DJANGO_SETTINGS_MODULE", "").partition(".")
    found: str | None = getattr(sys.modules.get(module[0]), "__file__", None)
    if found is None:
        return os.getcwd()
    return os.path.dirname(os.path.dirname(found) if module[2] else found)


def _is_below(path: str, folder: str) -> bool:
    return folder != "/" and (path == folder or path.startswith(folder + "/"))


def _processes(processes: Sequence[Seen]) -> str:
    shown = [f"{each.pid} ({each.command[:60]})" for each in processes[:_NAMED]]
    more = len(processes) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))
