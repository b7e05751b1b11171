"""Drives a stream's state by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from control_plane.state import TenantState
from control_plane.watch.encoder import Encoder, Suffix
from control_plane.watch.planner import Planner
from control_plane.watch.stream import (
    Action,
    Close,
    Event,
    HeartbeatAfter,
    HeartbeatDue,
    Moved,
    Send,
    SendHeartbeat,
    StateChanged,
    StreamState,
    Subscribed,
)
from voxplane.errors import VoxplaneError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


@dataclass
class DrivenStream:
    """A stream whose messages are `sent` as bytes."""

    request: sync_pb2.WatchConfigRequest
    planner: Planner = field(default_factory=Planner)
    encoder: Encoder = field(default_factory=Encoder)
    stream_id: str = "stream-1"

    def __post_init__(self) -> None:
        self.state = StreamState(self.planner, lambda: 0.5, 30.0)
        self.sent: list[bytes] = []
        self.moves: list[Moved] = []
        self.waits: list[float] = []
        self.closed: VoxplaneError | None = None
        self._suffix = Suffix(self.stream_id)
        self.receive(Subscribed(self.request))

    def show(self, state: TenantState) -> list[sync_pb2.WatchConfigResponse]:
        """Show a state; returns the messages that it made."""
        return self.receive(StateChanged(state))

    def beat(self) -> sync_pb2.WatchConfigResponse:
        """Let a heartbeat be due."""
        (message,) = self.receive(HeartbeatDue())
        return message

    def receive(self, event: Event) -> list[sync_pb2.WatchConfigResponse]:
        """Show an event; returns the messages that it made."""
        before = len(self.sent)
        for action in self.state.receive(event):
            self._carry_out(action)
        return [sync_pb2.WatchConfigResponse.FromString(data) for data in self.sent[before:]]

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(part, nonce):
                self.sent.append(self.encoder.part(part) + self._suffix.bytes(nonce))
            case SendHeartbeat(seconds, revisions, nonce):
                self.sent.append(self.encoder.heartbeat(seconds, revisions) + self._suffix.bytes(nonce))
            case Moved():
                self.moves.append(action)
            case HeartbeatAfter(seconds):
                self.waits.append(seconds)
            case Close(error):
                self.closed = error
