"""Processes of `multiprocessing` that need not import anything: forked by one that has."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from typing import Any


@contextmanager
def forking(modules: Sequence[str]) -> Iterator[ForkServerContext]:
    """A context whose processes are forked by a server that has imported these modules.

    The server would last as long as this process; it ends here.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    try:
        yield context
    finally:
        server: Any = multiprocessing.forkserver
        server._forkserver._stop()
