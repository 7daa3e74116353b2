"""Names of channels: those a layer makes, those of other processes, and invalid ones."""

from __future__ import annotations

import random
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.encoding.names import channel_name
from tests.tools.doubles import (
    fresh,
    run,
)


def test_new_channels_are_this_processs_and_never_the_same() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(fresh(), engine="memory")
        names = set()
        for _ in range(100):
            random.seed(1)
            names.add(await layer.new_channel())
        assert len(names) == 100
        for name in names:
            assert name.startswith(f"specific.{layer.client_prefix}!")
            assert channel_name(name).owner.hex() == layer.client_prefix[:28]
        assert (await layer.new_channel("a.b")).startswith(f"a.b.{layer.client_prefix}!")
        assert len(await layer.new_channel("x" * 33)) == 99
        await layer.close()

    run(main())


@pytest.mark.parametrize("prefix", ["a!", "a?", "a b", "ä", "x" * 34, None, 1, b"a"])
def test_a_prefix_that_makes_no_valid_name_is_refused(prefix: Any) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    with pytest.raises(TypeError, match="prefix of a new channel"):
        run(layer.new_channel(prefix))
    layer.sync.close()


@pytest.mark.parametrize(
    ("channel", "why"),
    [
        ("specific." + "ab" * 16 + "!c", "belongs to process abab"),
        ("not-client-prefix!local_part", "not made by new_channel"),
        ("a!", "not made by new_channel"),
    ],
)
def test_receiving_on_a_channel_of_another_process_is_an_error_at_once(
    channel: str, why: str
) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    with pytest.raises(ValueError, match=why):
        run(layer.receive(channel))
    layer.sync.close()


def test_both_layers_name_the_owner_of_a_channel_alike() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    queue = "specific." + "ab" * 16 + "!"
    whose = f"belongs to process {'ab' * 14}, and this is {layer.client_prefix[:28]};"
    with pytest.raises(ValueError, match=whose) as here:
        run(layer.receive(queue + "c"))
    with pytest.raises(ValueError, match=whose) as there:
        layer.sync.receive([queue])
    assert str(here.value) == str(there.value).replace(queue, queue + "c")
    layer.sync.close()


def test_a_valid_name_is_said_to_be_valid_and_another_is_an_error() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    longest = "x" * (layer.MAX_NAME_LENGTH - 1)
    assert len(longest) == 99
    for name in (longest, "a.b-c_d", "specific.x!local", "x!"):
        assert layer.require_valid_channel_name(name) is True
    assert layer.require_valid_group_name(longest) is True
    for bad in (longest + "x", "", "a b", "a!b!c", "ä", b"a", None, 5):
        with pytest.raises(TypeError, match="channel name"):
            layer.require_valid_channel_name(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="group name"):
            layer.require_valid_group_name(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="group name"):
        layer.require_valid_group_name("a!")
    layer.sync.close()


@pytest.mark.parametrize("name", [["c"], {}, None, 5, b"c", "a b"])
def test_receiving_on_what_is_no_name_is_an_error_that_says_so(name: Any) -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    with pytest.raises(TypeError, match=r"channel name .* is not"):
        run(layer.receive(name))
    layer.sync.close()


def test_a_name_to_receive_from_must_end_at_the_exclamation_mark() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    for name in ("a", "x!"):
        assert layer.require_valid_channel_name(name, receive=True) is True
    with pytest.raises(TypeError, match="'x!local' must end at the '!'"):
        layer.require_valid_channel_name("x!local", receive=True)
    layer.sync.close()


def test_the_non_local_part_of_a_name_goes_up_to_the_exclamation_mark() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    names = {"specific.x!local": "specific.x!", "x!": "x!", "a.b": "a.b", "a?b": "a?b"}
    for name, part in names.items():
        assert layer.non_local_name(name) == part
    with pytest.raises(TypeError, match="channel name"):
        layer.non_local_name("a b")
    layer.sync.close()
