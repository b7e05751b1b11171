"""The node as it sees itself, for its own machine."""

from __future__ import annotations

import math
from typing import Protocol

from google.protobuf import duration_pb2

from agent_node.relay.board import Board
from agent_node.relay.sessions import SessionDesk
from agent_node.upstream import Stale, Upstream
from voxplane.clock import Clock
from voxplane.node.v1 import relay_service_pb2 as relay_pb2

TENANTS_SHOWN_MAX = 1000
REFUSED_SHOWN_MAX = 100


class Reports(Protocol):
    """What is told of sessions, and how far that has come."""

    connected: bool

    @property
    def unacknowledged(self) -> int:
        """Count of sessions of which something is not acknowledged."""
        ...

    @property
    def spool_bytes(self) -> int:
        """What waits on disk."""
        ...


class NodeStatus:
    """`clock` is read for every answer."""

    def __init__(
        self,
        *,
        node_id: str,
        version: str,
        server: str,
        upstream: Upstream,
        board: Board,
        desk: SessionDesk,
        reports: Reports,
        clock: Clock,
    ) -> None:
        self._upstream = upstream
        self._board = board
        self._desk = desk
        self._reports = reports
        self._clock = clock
        self._same = relay_pb2.GetNodeStatusResponse(node_id=node_id, version=version, server=server)
        self._same.start_time.FromNanoseconds(round(clock.time() * 1e9))

    def now(self) -> relay_pb2.GetNodeStatusResponse:
        """The status."""
        protocol, now = self._upstream.protocol, self._clock.monotonic()
        answer = relay_pb2.GetNodeStatusResponse()
        answer.CopyFrom(self._same)
        answer.stream_id = protocol.stream_id
        answer.replaced = protocol.replaced
        if not protocol.stream_id and self._upstream.next_at > now:
            answer.next_stream.CopyFrom(_duration(self._upstream.next_at - now))
        stale = protocol.stale(now)
        if stale is not None:
            answer.stale.CopyFrom(self._stale(stale, now))
        answer.tenant_count = len(protocol.snapshots)
        for tenant_id in sorted(protocol.snapshots)[:TENANTS_SHOWN_MAX]:
            snapshot, age = protocol.snapshots[tenant_id], protocol.freshness.age(tenant_id, now)
            shown = answer.tenants.add(
                tenant_id=tenant_id,
                revision=snapshot.revision,
                agents=len(snapshot.bundles),
                level=protocol.freshness.is_level(tenant_id),
            )
            if math.isfinite(age):
                shown.age.CopyFrom(_duration(age))
        answer.sessions = self._board.sessions
        kinds = self._desk.kinds
        answer.voice_sessions, answer.text_sessions = kinds["voice"], kinds["text"]
        answer.reports_connected = self._reports.connected
        answer.untold_sessions = self._reports.unacknowledged
        answer.spool_bytes = self._reports.spool_bytes
        for name, refused, runs, error in self._board.refused()[:REFUSED_SHOWN_MAX]:
            answer.refused.add(name=name, refused_revision=refused, runs_revision=runs, error=error)
        return answer

    def _stale(self, stale: Stale, now: float) -> relay_pb2.StaleState:
        shown = relay_pb2.StaleState(reason=stale.reason)
        age = now - stale.since
        if math.isfinite(age):
            shown.age.CopyFrom(_duration(age))
            shown.since.FromNanoseconds(round((self._clock.time() - age) * 1e9))
        return shown


def _duration(seconds: float) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    made.FromMilliseconds(round(seconds * 1e3))
    return made
