"""What the constructor of a layer accepts, and what it says about anything else."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, OptionError, SyncIPCChannelLayer
from asgi_ipc.layers.options import NAMES, problems

LAYERS = [IPCChannelLayer, SyncIPCChannelLayer]


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("prefix", ["", "a b", "a/b", "../a", ".a", "ä", "a\n", "x" * 65, b"a", None, 1]),
        ("capacity", [0, -1, 1.5, True, "10", float("inf")]),
        ("expiry", [0, -1, True, "60", None, float("nan"), float("inf"), 1e12]),
        ("group_expiry", [-0.1, False, "1", None, float("nan"), float("inf"), 1e12]),
        ("channel_memory", [0, -1, 262143, 1.5, True, "100MB", None, 1024**4 + 1]),
        ("group_memory", [0, 262143, 1e8, True, "20MB", None]),
        ("process_memory", [0, 16777215, 1e8, True, "64MB", None, 1024**4 + 1]),
        ("engine_options", ["a", [("a", 1)], {1: 2}, 5]),
        ("channel_capacity", [5, "a*", [("a", 1)], {"a": 0}, {"a": True}, {"a": 1.5}]),
        ("channel_capacity", [{"a": "1"}, {1: 5}, {re.compile(b"a"): 5}, {b"a": 5}]),
    ],
)
def test_a_bad_value_is_refused_by_name(layer_class: Any, option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(OptionError, match=option) as caught:
            layer_class(**{"engine": "memory", option: value})
        assert re.search("must be|a pattern is|compile it", str(caught.value))


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("expirey", "did you mean 'expiry'"),
        ("message_memory", "channel_memory"),
        ("hosts", "relay names a server"),
        ("serializer_format", "msgpack"),
        ("zzz", "the options are prefix, engine, "),
    ],
)
def test_an_unknown_option_is_refused_with_advice(layer_class: Any, option: str, hint: str) -> None:
    with pytest.raises(OptionError, match=re.escape(repr(option))) as caught:
        layer_class(engine="memory", **{option: 1})
    assert hint in str(caught.value)


def test_one_error_names_all_options_that_are_wrong() -> None:
    patterns: dict[Any, int] = {"a": 0, "b": 1, "c": -1}
    options: dict[str, Any] = {"hosts": [], "expiry": 0, "serializer_format": 1}
    with pytest.raises(OptionError) as caught:
        IPCChannelLayer("a b", engine="memory", channel_capacity=patterns, **options)
    lines = str(caught.value).splitlines()
    begun = ("prefix", "expiry", "channel_capacity['a']", "channel_capacity['c']")
    unknown = ("there is no option 'hosts'", "there is no option 'serializer_format'")
    assert len(lines) == 6
    assert all(map(str.startswith, lines, begun + unknown))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"relay": "memory://x"}, []),
        (
            {"relay": "memory://x", "relay_options": {"tmeout": 3, "timeout": "x"}},
            [("relay_options", "did you mean 'timeout'"), ("relay_options", "['timeout'] is 'x'")],
        ),
        (
            {"relay": "localhost:6379", "relay_options": {"keys": ["abc"], "backlog": 5}},
            [
                ("relay", "redis://localhost:6379"),
                ("relay_options", "['backlog'] is 5"),
                ("relay_options", "['keys']: key 0"),
            ],
        ),
        (
            {"relay": "memory://h:99999", "relay_options": {"backlog": 5}},
            [("relay", "can't be read"), ("relay_options", "['backlog'] is 5")],
        ),
        (
            {"expiry": 0, "relay_channels": "a", "relay_options": {}},
            [
                ("expiry", "expiry is 0"),
                ("relay_options", "relay is not"),
                ("relay_channels", "relay is not"),
                ("relay_channels", "must be a list"),
            ],
        ),
        (
            {"prefix": "a b", "relay": 5, "relay_options": 5, "relay_channels": ["a!", 5]},
            [
                ("prefix", "prefix is 'a b'"),
                ("relay", "relay is 5"),
                ("relay_options", "must be a dict"),
                ("relay_channels", "has 'a!'"),
                ("relay_channels", "has 5"),
            ],
        ),
        (
            {"relay": "nats://", "relay_channels": ["a"], "zzz": 1},
            [
                ("zzz", "no option"),
                ("relay", "names no host"),
                ("relay_channels", "can't be used with nats"),
            ],
        ),
    ],
)
def test_all_faults_of_a_relay_are_told_each_by_its_option(
    options: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    found = problems(options)
    assert [each.option for each in found] == [option for option, _ in told]
    for each, (_, words) in zip(found, told, strict=True):
        assert words in each.text
        assert "\n" not in each.text
    if told:
        with pytest.raises(OptionError) as caught:
            IPCChannelLayer(**{"engine": "memory", **options})
        assert len(str(caught.value).splitlines()) == len(told)


def test_every_option_of_the_constructor_is_checked_and_its_default_passes() -> None:
    parameters = inspect.signature(IPCChannelLayer).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind != each.VAR_KEYWORD}
    assert problems(defaults) == []
    assert set(defaults) == set(NAMES)


def test_options_are_shown_as_given() -> None:
    pattern = re.compile("a")
    layer = IPCChannelLayer("shown", engine="memory", expiry=1.5, channel_capacity={pattern: 3})
    assert (layer.prefix, layer.expiry, layer.group_expiry, layer.capacity) == (
        "shown",
        1.5,
        86400,
        100,
    )
    assert layer.channel_capacity == {pattern: 3}
    assert (layer.get_capacity("abc"), layer.get_capacity("b")) == (3, 100)
    assert layer.extensions == ["groups", "flush", "statistics"]
    layer.sync.close()


def test_importing_it_brings_neither_asyncio_nor_django() -> None:
    check = (
        "import sys, asgi_ipc\n"
        "assert asgi_ipc.__version__\n"
        "assert not {'asyncio', 'django', 'channels.layers'} & set(sys.modules)\n"
        "asgi_ipc.SyncIPCChannelLayer(engine='memory').send('a', {})\n"
        "assert not {'asyncio', 'django', 'channels.layers'} & set(sys.modules)\n"
        "asgi_ipc.IPCChannelLayer\n"
        "assert not {'django', 'channels.layers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=300)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import asgi_ipc

    with pytest.raises(AttributeError, match="nothing"):
        asgi_ipc.nothing  # noqa: B018
    assert "IPCChannelLayer" in dir(asgi_ipc)
