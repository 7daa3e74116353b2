"""The command line: ``python -m asgi_ipc COMMAND``, the same as ``asgi-ipc COMMAND``."""

from __future__ import annotations

import sys

from .cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(program="python -m asgi_ipc"))
