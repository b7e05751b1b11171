"""The stores that the contract suite runs on: add one, and it is held to all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from control_plane.store import MemoryStore, SqliteStore, Store


class Backend(Protocol):
    """A place for one store, empty at first."""

    durable: bool
    """Whether `open` finds again what an earlier store has kept there."""

    def __init__(self, folder: Path) -> None:
        """The folder is empty and this place's own."""
        ...

    async def open(self) -> Store:
        """A store on this place; the one before it must be closed."""
        ...


class Memory:
    """MemoryStore; every opening is a new one."""

    durable = False

    def __init__(self, folder: Path) -> None:
        pass

    async def open(self) -> Store:
        """See Backend."""
        return MemoryStore()


class Sqlite:
    """SqliteStore on one file."""

    durable = True

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.db"

    async def open(self) -> Store:
        """See Backend."""
        return await SqliteStore.open(self._path)


BACKENDS: Mapping[str, type[Backend]] = {"memory": Memory, "sqlite": Sqlite}
