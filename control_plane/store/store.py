"""All that is kept: the log, and the table of sessions beside it."""

from __future__ import annotations

from typing import Protocol

from control_plane.store.log import LogStore
from control_plane.store.session_table import SessionTable


class Store(LogStore, Protocol):
    """Both in one place, opened and closed together."""

    @property
    def sessions(self) -> SessionTable:
        """The table of sessions."""
        ...
