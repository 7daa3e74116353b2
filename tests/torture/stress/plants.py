"""Faults, planted in the workers of a round one at a time, that the judge must see."""

PLANTS: dict[str, object] = {}


def plant(name: str) -> None:
    """Have the fault of that name from now on."""
    raise NotImplementedError
