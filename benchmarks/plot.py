"""The picture: the questions that tell layers apart, as bars."""

from __future__ import annotations

from typing import Any

from .results import Results

#: Question, variant, number, and what the picture calls it.
_PANELS = (
    ("pair", "", "pair µs", "send and receive in one process, µs (less is better)"),
    ("roundtrip", "", "p50 µs", "round trip between two processes, median µs (less is better)"),
    ("oneway", "1 to 1", "messages/s", "messages/s from one process to another (more is better)"),
    (
        "broadcast",
        "1,000 members",
        "deliveries/s",
        "deliveries/s to 1,000 members (more is better)",
    ),
)
_OURS, _OTHERS, _FLOOR = "#2a6fbb", "#9a9a9a", "#d8b365"


def draw(results: Results, path: str) -> bool:
    """Write the picture; False if there is nothing to show."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [panel for panel in _PANELS if _bars(results, *panel[:3])]
    if not panels:
        return False
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(9, 2.2 * len(panels)), layout="constrained", squeeze=False
    )
    for axis, (question, variant, number, title) in zip(axes[:, 0], panels, strict=True):
        _draw_panel(axis, _bars(results, question, variant, number), title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _bars(results: Results, question: str, variant: str, number: str) -> list[tuple[str, float]]:
    found = [
        (key.who, results.median(*key))
        for key in results.all_keys()
        if (key.question, key.variant, key.number) == (question, variant, number)
    ]
    bars = [(who, median) for who, median in found if median]
    return sorted(bars, key=lambda bar: bar[1], reverse=number.endswith("µs"))


def _draw_panel(axis: Any, bars: list[tuple[str, float]], title: str) -> None:
    names = [who for who, _ in bars]
    colours = [_colour(who) for who in names]
    drawn = axis.barh(names, [median for _, median in bars], color=colours)
    axis.bar_label(
        drawn,
        [f"{median:,.3g}" if median < 100 else f"{median:,.0f}" for _, median in bars],
        padding=3,
        fontsize=8,
    )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(who: str) -> str:
    if who.startswith("floor"):
        return _FLOOR
    return _OURS if who.startswith("asgi_ipc") else _OTHERS
