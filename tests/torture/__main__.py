"""``python -m tests.torture NAME ...``: hand over to the module of that name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run one kind of torture, or say which there are."""
    names = []
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if found.name == "__main__":
            continue
        module = importlib.import_module(f"{__package__}.{found.name}")
        if hasattr(module, "main"):
            if arguments[:1] == [found.name]:
                return int(module.main(arguments[1:]) or 0)
            names.append(found.name)
    sys.stderr.write(f"usage: python -m tests.torture {{{','.join(names)}}} ...\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
