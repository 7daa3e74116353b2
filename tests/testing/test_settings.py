"""The layers of Django's settings, isolated: what changes, what does not, what is refused."""

from __future__ import annotations

import asyncio
import secrets
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("channels.layers")

from channels.layers import channel_layers, get_channel_layer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test.utils import override_settings

from asgi_ipc import StoreUnavailable
from asgi_ipc.engines.memory import MemoryEngine
from asgi_ipc.testing import isolate_channel_layers
from tests.tools.commands import check

OURS = "asgi_ipc.IPCChannelLayer"
OTHER = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


def entry(**config: Any) -> dict[str, Any]:
    return {"BACKEND": OURS, "CONFIG": {"engine": "memory", **config}}


@pytest.fixture(autouse=True)
def django() -> None:
    if not settings.configured:
        settings.configure(CHANNEL_LAYERS={})


@pytest.fixture
def site() -> Iterator[str]:
    """The prefix of a site whose layer holds a message for the channel ``reader``."""
    prefix = f"site-{secrets.token_hex(6)}"
    with override_settings(CHANNEL_LAYERS={"default": entry(prefix=prefix)}):
        layer = get_channel_layer()
        layer.sync.send("reader", {"text": "live"})
        yield prefix
        get_channel_layer().sync.destroy()


def test_a_test_is_joined_to_no_other_machine_unless_it_asks() -> None:
    """Nothing listens at that address: a shared channel and a flush would need it."""
    joined = {
        "relay": "redis://127.0.0.1:9",
        "relay_channels": ["work"],
        "relay_options": {"timeout": 1.0},
    }
    with override_settings(CHANNEL_LAYERS={"default": entry(**joined)}), isolate_channel_layers():
        layer = get_channel_layer().sync
        layer.send("work", {"n": 1})
        assert layer.receive(["work"]) == ("work", {"n": 1})
        layer.flush()
    own = {"engine": "memory", "relay": "memory://test", "relay_channels": ["work"]}
    asked = {"default": {**entry(**joined), "TEST_CONFIG": own}}
    with override_settings(CHANNEL_LAYERS=asked), isolate_channel_layers() as configs:
        assert configs["default"]["CONFIG"].items() >= own.items()
        get_channel_layer().sync.close()


def pending() -> float:
    counts: dict[str, float] = get_channel_layer().sync.global_statistics()
    return counts["messages_pending"]


def test_the_sites_store_is_neither_seen_nor_touched(site: str) -> None:
    live = get_channel_layer()
    with isolate_channel_layers():
        isolated = get_channel_layer()
        assert isolated.prefix.startswith("test-")
        assert isolated.prefix.endswith(site)
        assert pending() == 0
        isolated.sync.send("reader", {"text": "of a test"})
        assert live.sync.receive(["reader"]) == ("reader", {"text": "live"})
        assert live.sync.receive(["reader"]) == (None, None)
    assert get_channel_layer().prefix == site


def test_each_test_of_a_decorated_class_has_a_store_of_its_own(site: str) -> None:
    @isolate_channel_layers()
    class Tests(unittest.TestCase):
        def test_one(self) -> None:
            assert pending() == 0
            get_channel_layer().sync.send("reader", {})

        test_two = test_one

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    assert result.testsRun == 2
    assert result.wasSuccessful(), result.failures + result.errors
    assert pending() == 1


def test_a_decorated_coroutine_has_a_store_of_its_own(site: str) -> None:
    @isolate_channel_layers()
    async def talk() -> dict[str, Any]:
        await get_channel_layer().send("reader", {"text": "of a test"})
        heard: dict[str, Any] = await get_channel_layer().receive("reader")
        return heard

    assert asyncio.run(talk()) == {"text": "of a test"}
    assert pending() == 1


def test_isolating_what_is_isolated_changes_nothing(site: str) -> None:
    with isolate_channel_layers():
        layer = get_channel_layer()
        with isolate_channel_layers():
            assert get_channel_layer() is layer
        assert get_channel_layer() is layer
        with override_settings(CHANNEL_LAYERS={"default": entry(prefix="another")}):
            # The test's own settings are not isolated until it asks for that.
            assert get_channel_layer().prefix == "another"
            with isolate_channel_layers():
                assert get_channel_layer().prefix.endswith("-another")
            get_channel_layer().sync.close()


def test_entries_that_name_one_store_share_one_and_others_do_not() -> None:
    layers = {
        "default": entry(prefix="a"),
        "same": entry(prefix="a", expiry=5),
        "second": entry(prefix="b"),
        "other": OTHER,
    }
    with override_settings(CHANNEL_LAYERS=layers), isolate_channel_layers() as configs:
        default, same, second = (get_channel_layer(each) for each in ("default", "same", "second"))
        assert default.prefix == same.prefix != second.prefix
        assert same.expiry == 5
        assert configs["other"] is OTHER


def test_the_test_config_of_an_entry_replaces_its_config() -> None:
    live = {"BACKEND": OURS, "CONFIG": {"expiry": 5}, "TEST_CONFIG": {"engine": "memory"}}
    with override_settings(CHANNEL_LAYERS={"default": live}), isolate_channel_layers():
        layer = get_channel_layer()
        assert "engine='memory'" in repr(layer)
        assert layer.expiry == 60


def test_a_store_is_gone_afterwards_also_if_the_test_closed_its_layer_or_changed_settings() -> None:
    with override_settings(CHANNEL_LAYERS={"default": entry(engine="posix")}):
        with isolate_channel_layers() as configs:
            layer = get_channel_layer().sync
            layer.send("reader", {})
            layer.close()
            with override_settings(CHANNEL_LAYERS={"default": OTHER}):
                get_channel_layer()
            prefix = configs["default"]["CONFIG"]["prefix"]
            assert check(prefix) == []
        with pytest.raises(StoreUnavailable, match="no store"):
            check(prefix)


def test_settings_in_which_no_layer_could_be_isolated_are_refused() -> None:
    with (
        override_settings(CHANNEL_LAYERS={"default": OTHER}),
        pytest.raises(ImproperlyConfigured, match=r"its backends: channels\.layers\.InMemory"),
    ):
        isolate_channel_layers().enable()
    engine = MemoryEngine("x", channel_memory=1 << 20, group_memory=1 << 20)
    with (
        override_settings(CHANNEL_LAYERS={"default": entry(engine=engine)}),
        pytest.raises(ImproperlyConfigured, match=r"CHANNEL_LAYERS\['default'\] passes the engine"),
    ):
        isolate_channel_layers().enable()
    engine.close()
    assert not channel_layers.backends
