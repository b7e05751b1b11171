"""Repeats of a request get the first answer."""

from __future__ import annotations

import hashlib
from typing import cast

import cachetools
from google.protobuf.message import Message

from control_plane.store import Answer
from control_plane.store.log import REQUEST_ID_SECONDS
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.v1 import error_reason_pb2 as reason_pb2

NO_OP_ANSWERS_MAX = 1_000


def request_id_of(request: Message) -> str:
    """The request's request_id; empty if it has none."""
    return cast("str", getattr(request, "request_id", ""))


def is_validate_only(request: Message) -> bool:
    """Whether the request asks to change nothing."""
    return cast("bool", getattr(request, "validate_only", False))


def fingerprint(method: str, request: Message) -> bytes:
    """By which a repeat is told from another request with the same id."""
    bare = type(request)()
    bare.CopyFrom(request)
    for name in ("request_id", "validate_only"):
        bare.ClearField(name)
    return hashlib.sha256(method.encode() + b"\0" + bare.SerializeToString(deterministic=True)).digest()


def check_same(answer: Answer, asked: bytes) -> Answer:
    """The answer, if it was given to this very request. Raises VoxplaneError
    REQUEST_ID_REUSED."""
    if answer.fingerprint != asked:
        raise reused()
    return answer


def reused() -> VoxplaneError:
    """The error of a request_id that belongs to another request."""
    return VoxplaneError(
        reason_pb2.ERROR_REASON_REQUEST_ID_REUSED,
        "the request_id was used for another request; take a new one",
    )


class NoOpAnswers:
    """Answers to requests that changed nothing, and so are not in the log:
    the newest NO_OP_ANSWERS_MAX, for a day, while the process lives."""

    def __init__(self, clock: Clock) -> None:
        self._answers: cachetools.TTLCache[tuple[TenantId, str], Answer] = cachetools.TTLCache(
            NO_OP_ANSWERS_MAX, REQUEST_ID_SECONDS, timer=clock.monotonic
        )

    def get(self, tenant_id: TenantId, request_id: str) -> Answer | None:
        """What the request was answered, if it is remembered."""
        return self._answers.get((tenant_id, request_id))

    def keep(self, tenant_id: TenantId, request_id: str, answer: Answer) -> None:
        """Remember an answer."""
        self._answers[tenant_id, request_id] = answer
