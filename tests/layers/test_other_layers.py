"""What code that was written for other channel layers finds here, by its names."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from asgi_ipc import IPCChannelLayer, OptionError, SyncIPCChannelLayer
from asgi_ipc.exceptions import ForeignChannel, StoreUnavailable
from tests.tools.doubles import engine, fresh, run

LAYERS = [IPCChannelLayer, SyncIPCChannelLayer]


def _close(layer: Any) -> None:
    getattr(layer, "sync", layer).close()


def test_it_has_all_that_layers_of_channels_inherit() -> None:
    base = pytest.importorskip("channels.layers").BaseChannelLayer
    for layer_class in LAYERS:
        for name, what in vars(base).items():
            if name.startswith("__"):
                continue
            ours = getattr(layer_class, name)
            if not callable(what):
                assert type(ours) is type(what), name
            elif layer_class is IPCChannelLayer:
                # Whatever calls the one may call the other.
                assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(what)
                theirs = list(inspect.signature(what).parameters)
                assert list(inspect.signature(ours).parameters)[: len(theirs)] == theirs, name


@pytest.mark.parametrize("layer_class", LAYERS)
def test_they_answer_as_those_do(layer_class: Any) -> None:
    layers = pytest.importorskip("channels.layers")
    capacities: dict[Any, int] = {"http.*": 5, re.compile(r"x\.[0-9]+$"): 7}
    theirs = layers.BaseChannelLayer(capacity=3)
    theirs.channel_capacity = theirs.compile_capacities(capacities)
    ours = layer_class(fresh(), engine="memory", capacity=3)
    ours.channel_capacity = ours.compile_capacities(capacities)
    name: Any
    bad: Any
    for name in ("http.request", "x.12", "x.y", "s!local"):
        assert ours.get_capacity(name) == theirs.get_capacity(name)
        assert ours.non_local_name(name) == theirs.non_local_name(name)
    for name in (
        "a",
        "a.b-c_d",
        "a!b",
        "a!",
        "x" * 99,
        "x" * 100,
        "",
        "a b",
        "a!b!c",
        None,
        5,
        b"a",
    ):
        assert ours.match_type_and_length(name) == theirs.match_type_and_length(name)
        for method in ("require_valid_channel_name", "require_valid_group_name"):
            assert _answer(getattr(ours, method), name) == _answer(getattr(theirs, method), name)
        answers = [_answer(layer.valid_channel_names, [name], True) for layer in (ours, theirs)]
        assert answers[0] == answers[1]
        for regex in ("channel_name_regex", "group_name_regex"):
            if isinstance(name, str):
                found = [bool(getattr(layer, regex).match(name)) for layer in (ours, theirs)]
                assert found[0] == found[1]
    for bad in ([], "abc", None):
        with pytest.raises(TypeError, match="a list of one channel name"):
            ours.valid_channel_names(bad)
    for method in ("valid_channel_name", "valid_group_name"):
        with pytest.warns(
            DeprecationWarning, match=f"{method} is deprecated, use require_{method}"
        ):
            assert getattr(ours, method)("a") is True
    assert "Channel name is not valid" in ours.invalid_name_error.format("Channel")
    _close(ours)


def _answer(method: Any, *arguments: Any) -> Any:
    try:
        return method(*arguments)
    except TypeError:
        return TypeError


def test_closing_pools_does_nothing() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine())
        await layer.send("c", {"n": 1})
        await layer.close_pools()
        assert await layer.receive("c") == {"n": 1}
        await layer.close()

    run(main())


def test_the_channel_of_another_process_is_an_assertion_error_as_elsewhere() -> None:
    layer = IPCChannelLayer(fresh(), engine="memory")
    foreign = "specific." + "ab" * 16 + "!c"
    for kind in (ForeignChannel, AssertionError, ValueError):
        with pytest.raises(kind, match="belongs to process abab"):
            run(layer.receive(foreign))
        with pytest.raises(kind, match="belongs to process abab"):
            layer.sync.receive([foreign])
        with pytest.raises(kind, match="must end there"):
            layer.sync.receive(["x!local"])
    layer.sync.close()


# Options


@pytest.mark.parametrize("layer_class", LAYERS)
def test_what_may_change_is_set_on_the_layer(layer_class: Any) -> None:
    layer = layer_class(engine=engine(), capacity=2)
    other = layer if layer_class is SyncIPCChannelLayer else layer.sync
    other.group_add("g", "c")
    other.group_send("g", {})
    layer.capacity = 1
    assert (layer.capacity, other.capacity, layer.get_capacity("s!x")) == (1, 1, 1)
    assert other.group_send("g", {}) == ["c"]
    layer.channel_capacity = {"c": 2}
    assert layer.channel_capacity == {"c": 2}
    assert other.group_send("g", {}) == ()
    layer.capacity = None
    assert (layer.capacity, layer.get_capacity("s!x"), layer.get_capacity("c")) == (
        100,
        2**63 - 1,
        2,
    )
    layer.expiry, layer.group_expiry, layer.suspend_silent_channels = 0.000001, 5, False
    assert (layer.expiry, layer.group_expiry, layer.suspend_silent_channels) == (1e-6, 5, False)
    other.send("d", {})
    assert other.receive(["d"]) == (None, None)
    other.group_add("g", "d")
    layer.group_expiry = 1e-6
    other.group_add("g", "c")
    assert other.group_channels("g") == ["d"]
    for option, value in [
        ("expiry", 0),
        ("group_expiry", -1),
        ("capacity", 0),
        ("channel_capacity", {"a": 0}),
        ("suspend_silent_channels", 1),
    ]:
        before = getattr(layer, option)
        with pytest.raises(OptionError, match=option):
            setattr(layer, option, value)
        assert getattr(layer, option) == before
    for option in ("prefix", "process_memory", "serializer", "client_prefix"):
        with pytest.raises(AttributeError):
            setattr(layer, option, None)
    _close(layer)


def test_a_broadcast_follows_capacities_that_are_set() -> None:
    layer = SyncIPCChannelLayer(engine=engine())
    first, second = layer.new_channel(), layer.new_channel()
    for channel in (first, second):
        layer.group_add("g", channel)
    for _ in range(3):
        assert layer.group_send("g", {}) == ()
    layer.channel_capacity = {first: 1}
    assert layer.group_send("g", {}) == [first]
    layer.channel_capacity = None
    assert layer.group_send("g", {}) == ()
    layer.close()


def test_a_buffer_follows_a_capacity_that_is_set() -> None:
    async def main() -> None:
        layer = IPCChannelLayer(engine=engine(), capacity=1)
        channel = await layer.new_channel()
        layer.capacity = 50
        for number in range(20):
            await layer.send(channel, {"n": number})
        for number in range(20):
            assert await layer.receive(channel) == {"n": number}
        assert (await layer.global_statistics())["overflow_count"] == 0
        await layer.close()

    run(main())


@pytest.mark.parametrize("layer_class", LAYERS)
def test_memberships_without_an_end(layer_class: Any) -> None:
    layer = layer_class(engine=engine(), group_expiry=0)
    assert layer.group_expiry == 0
    other = layer if layer_class is SyncIPCChannelLayer else layer.sync
    other.group_add("g", "c")
    assert other.group_channels("g") == ["c"]
    with pytest.raises(OptionError, match="or 0 for no end"):
        layer_class(engine=engine(), group_expiry=False)
    _close(layer)


@pytest.mark.parametrize("layer_class", LAYERS)
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("prefix", "asgi:", "use 'asgi', for example"),
        ("prefix", "my site/1", "use 'my-site-1', for example"),
        ("hosts", ["redis://localhost"], "there is no server"),
        ("symmetric_encryption_keys", ["k"], "write a serializer"),
        ("serializer_format", "json", "use serializer"),
        ("random_prefix_length", 12, "remove it"),
        ("on_disconnect", "m.f", "no connection"),
        ("local_expiry", 5, "use expiry"),
    ],
)
def test_options_of_other_layers_are_answered_with_the_remedy(
    layer_class: Any, option: str, value: Any, said: str
) -> None:
    with pytest.raises(OptionError, match=option) as caught:
        layer_class(engine="memory", **{option: value})
    assert said in str(caught.value)


# With


def test_a_layer_is_closed_at_the_end_of_with() -> None:
    async def main() -> None:
        async with IPCChannelLayer(prefix, engine="memory") as layer:
            channel = await layer.new_channel()
            await layer.send(channel, {"n": 1})
        assert await layer.new_channel() != channel
        with pytest.raises(ForeignChannel):
            await layer.receive(channel)
        with pytest.raises(ZeroDivisionError):
            async with layer:
                raise ZeroDivisionError
        await layer.close()

    prefix = fresh()
    run(main())
    with SyncIPCChannelLayer(prefix, engine="memory") as layer:
        name = layer.new_channel()
        assert layer.receive([name]) == (None, None)
    with pytest.raises(ForeignChannel):
        layer.receive([name])
    with pytest.raises(StoreUnavailable), layer:
        raise StoreUnavailable
    layer.close()
