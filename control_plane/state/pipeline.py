"""One tenant's commits on their way to the disk.

`durable` is what is served. `tip` is durable and the commits that are
submitted and not yet durable: decisions are made on it, one after the other,
so that writers in this process never conflict and share a group commit. The
rules:

- a commit is submitted in the same step in which it was decided;
- durable moves in the order of the revisions, and before the answer is given;
- a commit names the hash of the entry that it was decided on, which is known
  before that entry is made, as its bytes are deterministic;
- when a commit fails, tip falls back to the commit before it, and those behind
  it fail too, as they name a head that never came to be: each is then decided
  again by its own caller;
- an answer that needs no commit, or an error, counts only when the tip that it
  was decided on has become durable.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from control_plane.state.decision import Decision
from control_plane.state.load import forward, load
from control_plane.state.tenant_state import TenantState, apply
from control_plane.store import Commit, CommitMeta, Compacted, Entry, LogStore, StoreError
from control_plane.store.chain import make_entry


@dataclass(slots=True, eq=False)
class Submitted:
    """A commit on its way: the tip that it made, and what became of it."""

    state: TenantState
    done: asyncio.Future[None]
    urgent: bool = False
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A tenant's state has become durable, in place of another."""

    before: TenantState
    after: TenantState
    urgent: bool


class Pipeline:
    """`on_durable` is called with each state that has become durable."""

    def __init__(self, store: LogStore, durable: TenantState, on_durable: Callable[[Change], None]) -> None:
        self._store = store
        self._on_durable = on_durable
        self._pending: deque[Submitted] = deque()
        self._stale = False
        self._catching_up = asyncio.Lock()
        self.durable = durable
        self.tip = durable

    @property
    def last(self) -> Submitted | None:
        """The newest commit on its way; None if tip is durable."""
        return self._pending[-1] if self._pending else None

    def submit(self, decision: Decision[Message], meta: CommitMeta) -> Submitted:
        """Enqueue a decision that was made on `tip`, and move tip."""
        base = self.tip
        entry = make_entry(base.tenant_id, base.revision + 1, decision.mutations, meta, base.head_hash)
        state = apply(base, entry.decode(), entry.hash)
        submitted = Submitted(state, asyncio.get_running_loop().create_future(), decision.urgent)
        # Who submitted may have gone; its failure is then nobody's concern.
        submitted.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        waiting = asyncio.ensure_future(
            self._store.commit(base.tenant_id, base.revision, decision.mutations, meta)
        )
        self._pending.append(submitted)
        self.tip = submitted.state
        waiting.add_done_callback(lambda landed: self._landed(submitted, landed))
        return submitted

    def raise_floor(self, floor: int) -> None:
        """Take note that the history up to a revision is trimmed. Who listens
        sees it with the next commit."""
        if floor > self.durable.floor:
            self.durable = replace(self.durable, floor=floor)
            self.tip = replace(self.tip, floor=floor) if self._pending else self.durable

    async def catch_up(self) -> None:
        """Take in what another writer has committed. Does nothing unless a
        commit has failed since the last time. Raises StoreError."""
        if not self._stale and not self._catching_up.locked():
            return
        async with self._catching_up:
            if not self._stale:
                return
            self._stale = False
            before = self.durable
            try:
                state = await forward(self._store, before)
            except Compacted:
                state = await load(self._store, before.tenant_id)
            except BaseException:
                self._stale = True
                raise
            if state.revision > self.durable.revision:
                self._serve(state)

    def _landed(self, submitted: Submitted, landed: asyncio.Future[Commit]) -> None:
        if landed.cancelled():
            self._failed(submitted, StoreError("the store has given the commit up"))
        elif (error := landed.exception()) is not None:
            self._failed(submitted, error)
        else:
            submitted.entry = landed.result().entry
            if submitted not in self._pending:
                # Given up, and durable after all: the log alone knows what is.
                self._stale = True
                submitted.done.set_result(None)
            while self._pending and self._pending[0].entry is not None:
                self._promote(self._pending.popleft())

    def _promote(self, submitted: Submitted) -> None:
        entry = submitted.entry
        assert entry is not None
        if entry.revision == self.durable.revision + 1:
            state = submitted.state
            if entry.hash != state.head_hash:
                state = apply(self.durable, entry.decode(), entry.hash)
            self._serve(state, urgent=submitted.urgent)
        elif entry.revision > self.durable.revision:
            self._stale = True
        submitted.done.set_result(None)

    def _failed(self, submitted: Submitted, error: BaseException) -> None:
        self._stale = True
        if submitted in self._pending:
            while self._pending[-1] is not submitted:
                self._pending.pop()
            self._pending.pop()
            self.tip = self._pending[-1].state if self._pending else self.durable
        submitted.done.set_exception(error)

    def _serve(self, state: TenantState, *, urgent: bool = False) -> None:
        before = self.durable
        if state.floor < self.durable.floor:
            # Decided on before the trim.
            state = replace(state, floor=self.durable.floor)
        self.durable = state
        if not self._pending:
            self.tip = state
        self._on_durable(Change(before, state, urgent))
