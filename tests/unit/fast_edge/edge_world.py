"""Both ends of a connection in memory: ours, and h2's as the client."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from h2.events import Event as H2Event
from h2.settings import Settings

from control_plane.fast_edge.connection import Connection, configuration
from control_plane.fast_edge.events import Event
from control_plane.fast_edge.limits import Budget, Limits
from tests.unit.fast_edge.frames import REQUEST

LIMITS = Limits()


def connection(limits: Limits = LIMITS, budget: Budget | None = None, now: float = 0.0) -> Connection:
    """The server's end, opened at a time."""
    budget = budget or Budget(limits.request_bytes_max_total)
    return Connection(limits, configuration(limits), budget, now, lambda: 0.5)


class Pair:
    """A client of h2 against our end, at a time that stands still."""

    def __init__(self, settings: dict[int, int] | None = None, **limits: float) -> None:
        self.limits = replace(LIMITS, **limits)  # type: ignore[arg-type]
        self.budget = Budget(self.limits.request_bytes_max_total)
        self.server = connection(self.limits, self.budget)
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        if settings:
            self.client.local_settings = Settings(client=True, initial_values=settings)
        self.client.initiate_connection()
        self.now = 0.0
        self.told: list[Event] = []
        self.seen: list[H2Event] = []
        self.flow()
        self.told.clear()
        self.seen.clear()

    def flow(self) -> list[Event]:
        """Bring over what either has to say, to the end; returns what ours tells."""
        told: list[Event] = []
        while True:
            there, back = self.client.data_to_send(), self.server.outgoing.take()
            if there:
                told += self.server.receive(there, self.now)
            if back:
                self.seen += self.client.receive_data(back)
            if not there and not back:
                if not self.server.outgoing.goes_on:
                    break
                told += self.server.push()
        self.told += told
        return told

    def call(
        self, body: bytes = b"", *, end: bool = True, headers: Iterable[tuple[str, str]] = REQUEST
    ) -> int:
        """Begin a call, and return its stream."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, list(headers), end_stream=end and not body)
        if body:
            self.client.send_data(stream_id, body, end_stream=end)
        self.flow()
        return stream_id

    def body(self, stream_id: int) -> bytes:
        """What the client has of an answer's body."""
        return b"".join(
            event.data
            for event in self.seen
            if isinstance(event, DataReceived) and event.stream_id == stream_id
        )

    def of(self, kind: type[H2Event]) -> list[H2Event]:
        """What the client has seen of a kind."""
        return [event for event in self.seen if isinstance(event, kind)]
