"""Refuses requests that break a rule of the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any, cast

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from control_plane.edge.around import Around, Context, Proceed
from control_plane.edge.calls import OURS
from control_plane.services.incoming import Take, take_at_once
from control_plane.state import BesideLoop
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import config_sync_service_pb2, node_service_pb2, session_service_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.validation import violations_of_message

NAMED_MAX = 3
"""So many violations are in the message too, for clients that show no details."""
SHORT_REQUEST_BYTES_MAX = 16 * 1024


class Validation(Around):
    """Handlers get only valid messages, each one of a client's stream too.
    What a message has beyond the contract is dropped, and so never stored."""

    def __init__(self) -> None:
        self._beside = BesideLoop()
        _compile_rules()

    async def around(self, method: str, request: Any, context: Context, proceed: Proceed) -> Any:
        """See Around."""
        if not method.startswith(OURS):
            return await proceed(request, context)
        if not isinstance(request, Message):
            return await proceed(_Checked(self._judge, cast("AsyncIterator[Message]", request)), context)
        await self._judge(request)
        served = proceed(request, context)
        del request
        return await served

    async def _judge(self, request: Message) -> None:
        request.DiscardUnknownFields()
        judged = _PARTS_TO_JUDGE.get(type(request), _whole)(request)
        if judged.ByteSize() <= SHORT_REQUEST_BYTES_MAX:
            _check(judged)
        else:
            await self._beside.run(partial(_check, judged))


class _Checked:
    """A client's stream, each message judged."""

    def __init__(self, judge: Callable[[Message], Awaitable[None]], requests: AsyncIterator[Message]) -> None:
        self._judge = judge
        self._requests = requests
        self._messages = aiter(requests)

    def __aiter__(self) -> _Checked:
        return self

    async def __anext__(self) -> Message:
        request = await anext(self._messages)
        await self._judge(request)
        return request

    def take_at_once(self, take: Take) -> None:
        """See control_plane.services.incoming.Take."""

        def take_valid(request: Message) -> bool:
            request.DiscardUnknownFields()
            if request.ByteSize() > SHORT_REQUEST_BYTES_MAX or violations_of_message(request):
                return False
            return take(request)

        take_at_once(self._requests, take_valid)


@cache
def _compile_rules() -> None:
    """Rules are compiled when they are first needed, which takes tens of
    milliseconds: before the first stream is there."""
    for module in (service_pb2, config_sync_service_pb2, node_service_pb2, session_service_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                violations_of_message(GetMessageClass(method.input_type)())


def _check(message: Message) -> None:
    """Raises VoxplaneError INVALID_REQUEST with every violation."""
    violations = violations_of_message(message)
    if violations:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_INVALID_REQUEST,
            "the request breaks the contract; " + "; ".join(_words(v) for v in violations[:NAMED_MAX]),
            violations=violations,
        )


def _words(violation: Violation) -> str:
    return f"{violation.field or 'the request'} {violation.description}"


def _whole(request: Message) -> Message:
    return request


def _without_partial_config(request: Message) -> Message:
    """A masked update is judged as the config that it makes, by its decision:
    by itself it may well lack what the rest has."""
    update = cast("service_pb2.UpdateAgentConfigRequest", request)
    if not update.update_mask.paths or not update.HasField("config"):
        return update
    judged = service_pb2.UpdateAgentConfigRequest()
    judged.CopyFrom(update)
    judged.config.Clear()
    return judged


_PARTS_TO_JUDGE: Mapping[type[Message], Callable[[Message], Message]] = {
    service_pb2.UpdateAgentConfigRequest: _without_partial_config
}
