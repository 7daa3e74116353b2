"""Engines that get tables wrong, clauses E8 to E11: members, and whether they changed."""

from __future__ import annotations

import asgi_ipc.engines.memory as memory
from asgi_ipc.engines.base import Members
from tests.wrong_engines import (
    NEVER,
    Wrong,
)


class RenewsNothing(Wrong):
    breaks = "E8"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        if member not in self.members(table).names:
            super().put(table, member, deadline, owner)


class LetsTablesGrowForEver(Wrong):
    breaks = "E8"

    def __init__(self, prefix: str, *, channel_memory: int, group_memory: int) -> None:
        super().__init__(prefix, channel_memory=channel_memory, group_memory=group_memory)
        self._store.group_memory = 1 << 40


class KeepsMembersForEver(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, NEVER, owner)


class ListsTheFirstTwice(Wrong):
    breaks = "E9"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        found = super().members(table, known)
        return found if found is known else found._replace(names=found.names[:1] + found.names)


class HasOneTable(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table[:1], member, deadline, owner)

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return super().members(table[:1], known)

    def remove(self, table: bytes, member: bytes) -> bool:
        return super().remove(table[:1], member)


class SaysItRemoved(Wrong):
    breaks = "E10"

    def remove(self, table: bytes, member: bytes) -> bool:
        super().remove(table, member)
        return True


class SaysNotWhetherItRemoved(Wrong):
    breaks = "E10"

    def remove(self, table: bytes, member: bytes) -> bool:
        super().remove(table, member)
        return False


class BelievesWhatIsKnown(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return known or super().members(table)


class KnowsNothing(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        return super().members(table)


class CountsInsteadOfComparing(Wrong):
    breaks = "E11"

    def members(self, table: bytes, known: Members | None = None) -> Members:
        found = super().members(table)
        return known if known and len(known.names) == len(found.names) else found


class RenewsOnlyToLater(Wrong):
    breaks = "E9"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        found = self._store.tables.get(table)
        if found is not None:
            deadline = max(deadline, found.members.get(member, 0))
        super().put(table, member, deadline, owner)


class TakesARenewalForAChange(Wrong):
    breaks = "E11"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, deadline, owner)
        self._store.tables[table].version = next(memory._versions)


class StartsItsVersionsAnew(Wrong):
    """As one would that keeps a table's version in the table, and drops empty ones."""

    breaks = "E11"

    def put(self, table: bytes, member: bytes, deadline: int, owner: bytes = b"") -> None:
        super().put(table, member, deadline, owner)
        found = self._store.tables[table]
        found.version = len(found.members)
