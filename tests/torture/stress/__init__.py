"""Random work on layers inside processes, with an exact ledger: ``python -m tests.torture stress``.

Where `tests.torture.soak` kills processes, this one harasses them from within: threads, event
loops of every kind, cancellations, forks, flushes, closings, removals, collections, finalizers
and signal handlers. A round is planned from a seed (`plan`), worked by fresh processes
(`worker`, `habitats`, `actors`) that write down what they do (`notes`), and judged from these
ledgers (`judge`); `driver` runs rounds and prints the seed of each that fails.
"""

from .driver import main

__all__ = ["main"]
