"""Drives a stream's state by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from control_plane.state import TenantState
from control_plane.watch.encoder import Encoder, Suffix, encode_drain, encode_report_request
from control_plane.watch.planner import Planner
from control_plane.watch.rights import EVERY_AGENT, Permit
from control_plane.watch.stream import (
    NOT_REFUSED,
    Action,
    Ahead,
    Close,
    Dropped,
    Event,
    HeartbeatAfter,
    HeartbeatDue,
    Moved,
    Opened,
    Send,
    SendDrain,
    SendHeartbeat,
    SendReportRequest,
    StateChanged,
    StreamRules,
    StreamState,
)
from control_plane.watch.subscription import read_subscription
from voxplane.errors import VoxplaneError
from voxplane.names import AgentName
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

AGE_SECONDS = 1_800.0


@dataclass
class DrivenStream:
    """A stream whose messages are `sent` as bytes."""

    request: sync_pb2.WatchConfigRequest
    planner: Planner = field(default_factory=Planner)
    encoder: Encoder = field(default_factory=Encoder)
    stream_id: str = "stream-1"
    admit: Callable[[int], float] = lambda _: 0.0

    def __post_init__(self) -> None:
        rules = StreamRules(self.planner, lambda: 0.5, self.admit, 30.0, AGE_SECONDS)
        self.sent: list[bytes] = []
        self.moves: list[Moved] = []
        self.dropped: list[str] = []
        self.ahead: list[Ahead] = []
        self.waits: list[float] = []
        self.closed: VoxplaneError | None = None
        self.now = 0.0
        self._suffix = Suffix(self.stream_id)
        try:
            self.state = StreamState(rules, read_subscription(self.request))
        except VoxplaneError as error:
            self.closed = error
            return
        self.receive(Opened(self.now))

    def show(
        self,
        state: TenantState,
        permit: Permit = EVERY_AGENT,
        refused: Mapping[AgentName, str] = NOT_REFUSED,
    ) -> list[sync_pb2.WatchConfigResponse]:
        """Show a state; returns the messages that it made."""
        return self.receive(StateChanged(state, permit, refused))

    def beat(self) -> sync_pb2.WatchConfigResponse:
        """Let a heartbeat be due."""
        (message,) = self.receive(HeartbeatDue(self.now))
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
            case SendDrain(reason, seconds, nonce):
                self.sent.append(encode_drain(reason, seconds) + self._suffix.bytes(nonce))
            case SendReportRequest(sequence, nonce):
                self.sent.append(encode_report_request(sequence) + self._suffix.bytes(nonce))
            case Dropped(tenant_id):
                self.dropped.append(tenant_id)
            case Ahead():
                self.ahead.append(action)
            case HeartbeatAfter(seconds):
                self.waits.append(seconds)
            case Close(error):
                self.closed = error
