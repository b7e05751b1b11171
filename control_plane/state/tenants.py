"""The states of all tenants in this process, and the one way to change them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import structlog
from google.protobuf.message import Message

from control_plane.state.beside import BesideLoop
from control_plane.state.decision import Act, Decide, Postponed, ResponseT
from control_plane.state.load import load, replay
from control_plane.state.pipeline import Change, Pipeline, Submitted
from control_plane.state.request_ids import (
    NoOpAnswers,
    check_same,
    fingerprint,
    is_validate_only,
    request_id_of,
    reused,
)
from control_plane.state.residents import Residents
from control_plane.state.rewound import Rewound
from control_plane.state.tenant_state import TenantState, to_snapshot
from control_plane.store import (
    Answer,
    CommitMeta,
    DuplicateRequest,
    LogStore,
    OutcomeUnknown,
    RevisionConflict,
    StoreError,
)
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.v1 import error_reason_pb2 as reason_pb2

COMMIT_ATTEMPTS_MAX = 10
SNAPSHOT_COMMITS = 1_000
HISTORY_ENTRIES_MAX = 100_000
STORE_RETRY_SECONDS = 1.0

Listener = Callable[[Change], None]
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Call(Generic[ResponseT]):
    """One mutation that was asked for."""

    tenant_id: TenantId
    decide: Decide[ResponseT]
    answer: type[ResponseT]
    method: str
    principal: str
    request_id: str
    fingerprint: bytes


class Tenants:
    """One per process. Keeps what is watched or written; other tenants leave
    memory after a while (residents.py).

    Of the log, at least `history_entries_max` entries of each tenant are
    kept; 0 keeps all.
    """

    def __init__(self, store: LogStore, clock: Clock, history_entries_max: int = HISTORY_ENTRIES_MAX) -> None:
        self._store = store
        self._clock = clock
        self._history_entries_max = history_entries_max
        self._listeners: list[Listener] = []
        self._residents = Residents(self._load, clock)
        self._in_flight: dict[tuple[TenantId, str], tuple[bytes, asyncio.Task[bytes]]] = {}
        self._no_ops = NoOpAnswers(clock)
        self._rewound = Rewound(clock)
        self._snapshots: dict[TenantId, asyncio.Task[None]] = {}
        self._beside = BesideLoop()

    async def get(self, tenant_id: TenantId) -> TenantState:
        """The tenant's state, loaded if need be; revision 0 if it has none.
        Raises VoxplaneError STORE_UNAVAILABLE."""
        with _STORE_ERRORS:
            return (await self._residents.get(tenant_id)).durable

    def peek(self, tenant_id: TenantId) -> TenantState | None:
        """The tenant's state, if it is in memory."""
        pipeline = self._residents.peek(tenant_id)
        return pipeline.durable if pipeline else None

    async def replay(self, tenant_id: TenantId, to_revision: int) -> TenantState:
        """The tenant as it was at a revision. Raises VoxplaneError
        REVISION_COMPACTED, REVISION_IN_FUTURE, STORE_UNAVAILABLE."""
        with _STORE_ERRORS:
            return await replay(self._store, tenant_id, to_revision)

    async def tenant_ids(self) -> list[TenantId]:
        """All tenants that have a commit, in ascending order. Raises
        VoxplaneError STORE_UNAVAILABLE."""
        with _STORE_ERRORS:
            return await self._store.tenants()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with the change after each durable commit, on
        the event loop. It must not block or raise."""
        self._listeners.append(listener)

    def ahead(self, tenant_id: TenantId, claimed: int, actual: int) -> None:
        """Take note that a client says it has a revision of the store's present
        epoch that is not made yet."""
        self._rewound.note(tenant_id, claimed, actual)

    def pin(self, tenant_id: TenantId) -> None:
        """Keep the tenant in memory, once it is there, until `unpin`."""
        self._residents.pin(tenant_id)

    def unpin(self, tenant_id: TenantId) -> None:
        """Undo one `pin`."""
        self._residents.unpin(tenant_id)

    async def commit(
        self,
        tenant_id: TenantId,
        decide: Decide[ResponseT],
        request: Message,
        *,
        method: str,
        principal: str,
        answer: type[ResponseT],
    ) -> ResponseT:
        """Decide, commit, and return the answer when it is durable.

        `answer` is the type of the response. A request_id that was used gets
        the first answer; a request with validate_only is decided and not
        committed. A caller that is cancelled leaves its commit to its own.
        Raises what `decide` raises, and VoxplaneError REQUEST_ID_REUSED,
        REVISION_CONFLICT and STORE_UNAVAILABLE.
        """
        if is_validate_only(request):
            return await self._would_be(tenant_id, decide, principal)
        request_id = request_id_of(request)
        asked = fingerprint(method, request) if request_id else b""
        call = _Call(tenant_id, decide, answer, method, principal, request_id, asked)
        self.pin(tenant_id)
        try:
            if not request_id:
                return await self._decide(call)
            return answer.FromString(await self._once(call))
        finally:
            self.unpin(tenant_id)

    async def close(self) -> None:
        """Wait for what runs in the background."""
        running = [task for _, task in self._in_flight.values()]
        await asyncio.gather(*running, *self._snapshots.values(), return_exceptions=True)

    async def _once(self, call: _Call[ResponseT]) -> bytes:
        """The serialised answer to a request with an id, decided once however
        many repeats of it come at the same time."""
        key = (call.tenant_id, call.request_id)
        if key in self._in_flight:
            asked, task = self._in_flight[key]
            if asked != call.fingerprint:
                raise reused()
        else:
            task = asyncio.get_running_loop().create_task(self._first_answer(call))
            self._in_flight[key] = (call.fingerprint, task)
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)

    def _answered(self, key: tuple[TenantId, str], done: asyncio.Task[bytes]) -> None:
        del self._in_flight[key]
        # All who asked may have gone; its failure is then nobody's concern.
        if not done.cancelled():
            done.exception()

    async def _first_answer(self, call: _Call[ResponseT]) -> bytes:
        remembered = self._no_ops.get(call.tenant_id, call.request_id)
        if remembered is None:
            with _STORE_ERRORS:
                now = self._clock.time()
                remembered = await self._store.answer(call.tenant_id, call.request_id, now)
        if remembered is not None:
            return (await self._repeated(call, remembered)).response
        return (await self._decide(call)).SerializeToString(deterministic=True)

    async def _decide(self, call: _Call[ResponseT]) -> ResponseT:
        for _ in range(COMMIT_ATTEMPTS_MAX):
            with _STORE_ERRORS:
                pipeline = await self._residents.get(call.tenant_id)
                await pipeline.catch_up()
            last = pipeline.last
            act = self._act(pipeline.tip, call.principal)
            try:
                decision = call.decide(pipeline.tip, act)
            except Postponed as postponed:
                await self._beside.run(postponed.find_out)
                continue
            except VoxplaneError:
                if await _came_true(last):
                    raise
                continue
            if not decision.mutations:
                if await _came_true(last):
                    self._keep_no_op(call, pipeline.durable.revision, decision.response)
                    return decision.response
                continue
            response = decision.response.SerializeToString(deterministic=True) if call.request_id else b""
            meta = CommitMeta(
                call.principal,
                call.method,
                act.now,
                call.request_id,
                call.fingerprint,
                response,
                pipeline.tip.head_hash,
            )
            submitted = pipeline.submit(decision, meta)
            try:
                with _STORE_ERRORS:
                    await asyncio.shield(submitted.done)
            except RevisionConflict:
                continue
            except DuplicateRequest as duplicate:
                return call.answer.FromString((await self._repeated(call, duplicate.answer)).response)
            return decision.response
        raise _too_many_changes()

    async def _would_be(self, tenant_id: TenantId, decide: Decide[ResponseT], principal: str) -> ResponseT:
        """The answer if it were committed."""
        for _ in range(COMMIT_ATTEMPTS_MAX):
            state = await self.get(tenant_id)
            try:
                return decide(state, self._act(state, principal)).response
            except Postponed as postponed:
                await self._beside.run(postponed.find_out)
        raise _too_many_changes()

    async def _repeated(self, call: _Call[ResponseT], first: Answer) -> Answer:
        """The first answer, once what it tells of is served."""
        check_same(first, call.fingerprint)
        with _STORE_ERRORS:
            pipeline = await self._residents.get(call.tenant_id)
            if pipeline.durable.revision < first.revision:
                await pipeline.catch_up()
        return first

    def _keep_no_op(self, call: _Call[ResponseT], revision: int, response: Message) -> None:
        if call.request_id:
            answer = Answer(revision, call.fingerprint, response.SerializeToString(deterministic=True))
            self._no_ops.keep(call.tenant_id, call.request_id, answer)

    def _act(self, tip: TenantState, principal: str) -> Act:
        """Who and when. Time never runs backwards in a tenant's log."""
        return Act(principal, max(self._clock.time(), tip.commit_time))

    async def _load(self, tenant_id: TenantId) -> Pipeline:
        return Pipeline(self._store, await load(self._store, tenant_id), self._durable)

    def _durable(self, change: Change) -> None:
        state = change.after
        if state.revision % SNAPSHOT_COMMITS == 0 and state.tenant_id not in self._snapshots:
            task = asyncio.get_running_loop().create_task(self._snapshot(state))
            self._snapshots[state.tenant_id] = task
            task.add_done_callback(lambda _: self._snapshots.pop(state.tenant_id))
        for listener in self._listeners:
            listener(change)

    async def _snapshot(self, state: TenantState) -> None:
        try:
            await self._store.save_snapshot(await asyncio.to_thread(to_snapshot, state))
            if 0 < self._history_entries_max < state.revision:
                floor = await self._store.trim(state.tenant_id, state.revision - self._history_entries_max)
                if (pipeline := self._residents.peek(state.tenant_id)) is not None:
                    pipeline.raise_floor(floor)
        except StoreError as error:
            _log.warning(
                "snapshot not saved", tenant_id=state.tenant_id, revision=state.revision, error=str(error)
            )


def _too_many_changes() -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_REVISION_CONFLICT,
        f"others changed the tenant {COMMIT_ATTEMPTS_MAX} times meanwhile; try again",
        retry_after=STORE_RETRY_SECONDS,
    )


async def _came_true(last: Submitted | None) -> bool:
    """Whether the tip that ended with `last` has become durable."""
    if last is None:
        return True
    try:
        await asyncio.shield(last.done)
    except StoreError:
        return False
    return True


class _StoreErrors:
    """Turns what only a retry can help with into an answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, StoreError) or isinstance(error, RevisionConflict | DuplicateRequest):
            return
        _log.error("the store failed", error=str(error))
        message = "the store cannot be read or written; try again"
        if isinstance(error, OutcomeUnknown):
            message = (
                "the disk failed, and whether the change was made is not known; repeat it with the same "
                "request_id: it is made once"
            )
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_STORE_UNAVAILABLE,
            message,
            retry_after=STORE_RETRY_SECONDS,
        ) from error


_STORE_ERRORS = _StoreErrors()
