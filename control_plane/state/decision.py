"""What a pure decision says is to be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from control_plane.state.tenant_state import TenantState
from voxplane.storage.v1 import log_pb2

ResponseT = TypeVar("ResponseT", bound=Message)
ResponseT_co = TypeVar("ResponseT_co", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Decision(Generic[ResponseT_co]):
    """Mutations of one commit, and the answer once it is made. No mutations
    means that nothing changes and nothing is committed. What is urgent is not
    held back to go out together with other changes."""

    mutations: Sequence[log_pb2.Mutation]
    response: ResponseT_co
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Act:
    """Who decides when: `now` is in seconds since 1970."""

    principal: str
    now: float


class Postponed(Exception):
    """A decision has to know what takes long to find out. `find_out` does that,
    on any thread; it does not raise, and after it the decision can be made."""

    def __init__(self, find_out: Callable[[], None]) -> None:
        super().__init__("it takes long to decide")
        self.find_out = find_out


Decide = Callable[[TenantState, Act], Decision[ResponseT]]
"""A decision with its request bound. Pure; raises VoxplaneError and Postponed."""
