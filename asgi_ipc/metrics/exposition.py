"""Metrics as text, in the format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .readings import Reading

#: The version of the format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(reading: Reading) -> str:
    """Return the metrics of a store."""
    return "".join(f"{line}\n" for line in _lines(reading))


def _lines(reading: Reading) -> Iterator[str]:
    for metric, samples in reading.samples():
        name = metric.full_name
        yield f"# HELP {name} {metric.help}"
        yield f"# TYPE {name} {metric.kind}"
        for labels, value in samples:
            yield f"{name}{{{_labels(labels)}}} {_number(value)}"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


__all__ = ["CONTENT_TYPE", "text"]
