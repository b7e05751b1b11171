"""A connection on a thread of its own: aiosqlite, and the two things that its
public calls do not offer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import aiosqlite

PREFETCHED_ROWS = 64

T = TypeVar("T")


async def connect(connector: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Connect on a new thread. Raises what the connector raises."""
    connection = aiosqlite.Connection(connector, PREFETCHED_ROWS)
    # A store that was not closed must not keep a process from ending; SQLite
    # needs no farewell.
    connection._thread.daemon = True  # pyright: ignore[reportPrivateUsage]
    return await connection


async def run(connection: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do any number of statements in one hop to the thread and back; by
    aiosqlite's own calls each would be a hop. Raises what the work raises, and
    ValueError when the connection is closed."""
    execute = connection._execute  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType, reportUnknownMemberType]
    return await execute(work, connection._conn)  # pyright: ignore[reportPrivateUsage]
