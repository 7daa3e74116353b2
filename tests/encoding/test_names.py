"""Which names are valid, and what they say (S4)."""

from __future__ import annotations

import pytest

from asgi_ipc.encoding.names import channel_name, group_name, queue_owner

IDENTITY = bytes(range(16))
MADE_BY_US = f"specific.{IDENTITY.hex()}!{'ab' * 16}"


class Safe(str):
    """As Django's SafeString."""

    __slots__ = ()


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "x" * 99, "a!", "a!b", "a?", "a?Xy-1", Safe("a")])
def test_valid_channel_names_are_taken(name: str) -> None:
    assert channel_name(name).full == name
    assert type(channel_name(name).full) is str


@pytest.mark.parametrize(
    "name",
    [
        "",
        "!",
        "!a",
        "?a",
        "a!b!c",
        "a!b?",
        "a?b!",
        "a??",
        "x" * 100,
        "a b",
        "a\n",
        "a!b\n",
        "ä",
        "a٣",
        "a!٣",
        "a!ä",
        "=+135!",
        "a/b",
        "a\0",
        "\ud800",
        b"a",
        None,
        1,
        ["a"],
    ],
)
def test_other_channel_names_are_a_type_error_that_names_them(name: object) -> None:
    with pytest.raises(TypeError, match="channel name") as caught:
        channel_name(name)
    assert repr(name)[:50] in str(caught.value)


@pytest.mark.parametrize("name", ["a", "A-z_0.9", "x" * 99])
def test_valid_group_names_are_taken(name: str) -> None:
    assert group_name(name) == name.encode()


@pytest.mark.parametrize(
    "name", ["", "a!", "a!b", "a?", "x" * 100, "a b", "a\n", "ä", b"a", None, {}]
)
def test_other_group_names_are_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="group name"):
        group_name(name)


def test_an_endless_name_makes_no_endless_error() -> None:
    with pytest.raises(TypeError) as caught:
        channel_name("x" * 1_000_000)
    assert len(str(caught.value)) < 1000


def test_a_name_is_split_behind_its_bang() -> None:
    assert channel_name("a.b!c")[1:4] == (b"a.b!", b"c", True)
    assert channel_name("a.b!")[1:4] == (b"a.b!", b"", True)
    assert channel_name("a.b?c")[1:4] == (b"a.b?c", b"", False)
    assert channel_name("a.b")[1:4] == (b"a.b", b"", False)


def test_a_name_made_by_us_tells_its_owner() -> None:
    # The last two bytes are the layer's number, which differs within a process.
    assert channel_name(MADE_BY_US).owner == IDENTITY[:14]
    assert channel_name(f"a.b..{IDENTITY.hex()}!").owner == IDENTITY[:14]
    assert queue_owner(f"specific.{IDENTITY.hex()}!") == IDENTITY[:14]


@pytest.mark.parametrize(
    "name",
    [
        f"specific.{IDENTITY.hex()}",
        f"{IDENTITY.hex()}!a",
        f".{IDENTITY.hex()}!a",
        f"a.{IDENTITY.hex()[1:]}!a",
        f"a.{IDENTITY.hex().upper()}!a",
        f"a!a.{IDENTITY.hex()}",
    ],
)
def test_other_names_have_no_owner(name: str) -> None:
    assert channel_name(name).owner == b""
