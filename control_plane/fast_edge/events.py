"""What a connection tells of its calls."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.fast_edge.wire import Request


@dataclass(frozen=True, slots=True)
class Began:
    """A client has begun a call."""

    stream_id: int
    request: Request


@dataclass(frozen=True, slots=True)
class Came:
    """A message of a call has come. Say `taken` when it is of no more concern."""

    stream_id: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """The client has sent all of its request."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Went:
    """The message that was begun is on its way, whole."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The client wants no answer any more; the call is over."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The client has sent what cannot be taken; the call is over, and its
    answer on the way."""

    stream_id: int
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Over:
    """The connection is over, and with it all calls: close it when what is to
    be sent has been given to the socket."""

    reason: str


Event = Began | Came | Asked | Went | Gone | Refused | Over
