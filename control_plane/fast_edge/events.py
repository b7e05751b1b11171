"""What a connection tells of its calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from control_plane.fast_edge.wire import Request


class Began(NamedTuple):
    """A client has begun a call."""

    stream_id: int
    request: Request


class Came(NamedTuple):
    """A message of a call has come. Say `taken` when it is of no more concern."""

    stream_id: int
    message: bytes


class Asked(NamedTuple):
    """The client has sent all of its request."""

    stream_id: int


class Went(NamedTuple):
    """The message that was begun is on its way, whole."""

    stream_id: int


class Gone(NamedTuple):
    """The client wants no answer any more; the call is over."""

    stream_id: int


class Refused(NamedTuple):
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
