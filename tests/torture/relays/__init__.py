"""Machines joined by relays, while all that can go wrong does: ``python -m tests.torture relays``.

Three machines, each a store and processes of its own, are joined over a real server. Their
processes send each other numbered messages (`processes`) while relays are killed and stopped, the
server is restarted and stopped, and the network fails (`troubles`). In the end all that was sent
must be accounted for, from ledgers that the processes keep and from what the relays counted
(`judge`). `driver` runs it, and `plants` has faults that must be found.
"""

from .driver import main

__all__ = ["main"]
