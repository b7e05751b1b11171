"""What else is written to a log's file, on the connection's thread.

Work is such that doing it twice is doing it once. So when the disk fails nobody
looks for what became of it: who asked for it is told, and asks again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.store.log import StoreError
from control_plane.store.sqlite_group import FAULT_OF_ONE, Guard, Transaction

WORKS_MAX = 10_000
"""That wait."""
TRANSACTION_WEIGHT_MAX = 256
"""Work that shares a transaction: commits wait some 10 ms for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Something to write: about so many rows, of so many bytes together."""

    do: Callable[[sqlite3.Connection], Any]
    weight: int
    size: int
    done: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Worked:
    """What became of works: a result or a StoreError for each, in order; fewer
    if a fault came in between."""

    outcomes: list[Any]
    fault: sqlite3.Error | StoreError | None = None


def next_works(waiting: deque[Work]) -> list[Work]:
    """Take from those that wait what is to share a transaction, one at least."""
    taken = [waiting.popleft()]
    weight = taken[0].weight
    while waiting and weight + waiting[0].weight <= TRANSACTION_WEIGHT_MAX:
        weight += waiting[0].weight
        taken.append(waiting.popleft())
    return taken


def do_works(connection: sqlite3.Connection, works: Sequence[Work], guard: Guard) -> Worked:
    """Do works in one transaction; one that cannot be done fails alone."""
    try:
        with Transaction(connection):
            guard(connection)
            return Worked([work.do(connection) for work in works])
    except FAULT_OF_ONE as error:
        if len(works) == 1:
            return Worked([StoreError(f"the table cannot be written: {error}")])
    except (sqlite3.Error, StoreError) as fault:
        return Worked([], fault)
    except Exception as error:
        # Whatever it is, nothing of it is durable, and each must hear it.
        return Worked([StoreError(f"the table cannot be written: {error}") for _ in works])
    outcomes: list[Any] = []
    for work in works:
        worked = do_works(connection, [work], guard)
        outcomes += worked.outcomes
        if worked.fault:
            return Worked(outcomes, worked.fault)
    return Worked(outcomes)
