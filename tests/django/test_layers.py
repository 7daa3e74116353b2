"""`get_layer`: the layer of the settings, with its type; errors that name the remedy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("channels")

from channels.exceptions import InvalidChannelLayerError
from channels.layers import channel_layers
from django.conf import settings
from django.test import override_settings

from asgi_ipc import IPCChannelLayer
from asgi_ipc.django import get_layer

if not settings.configured:
    settings.configure()

MEMORY = {"BACKEND": "asgi_ipc.IPCChannelLayer", "CONFIG": {"engine": "memory", "prefix": "typed"}}
LAYERS = {
    "default": MEMORY,
    "others": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    with override_settings(CHANNEL_LAYERS=LAYERS):
        channel_layers.backends = {}
        yield
    channel_layers.backends = {}


def test_it_is_the_layer_that_channels_returns() -> None:
    layer = get_layer()
    assert type(layer) is IPCChannelLayer
    assert layer is channel_layers["default"] is get_layer("default")
    layer.sync.send("typed", {"n": 1})
    assert layer.sync.receive(["typed"]) == ("typed", {"n": 1})
    layer.sync.close()


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("none", "has no 'none'; add it"),
        ("others", "'others'] is a channels.layers.InMemoryChannelLayer.*set its BACKEND"),
    ],
)
def test_without_such_a_layer_it_says_what_to_do(alias: str, said: str) -> None:
    with pytest.raises(InvalidChannelLayerError, match=said) as caught:
        get_layer(alias)
    assert "'asgi_ipc.IPCChannelLayer'" in str(caught.value)
