"""The caller's frontend in a LiveKit room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from livekit import rtc

from agent_node.job.field_feed import Result
from agent_node.job.frontend import NotDelivered

RESPONSE_SECONDS = 8.0
"""For the answer to an RPC: as long as LiveKit gives the way there, and more."""
SEND_SECONDS_MAX = 20.0
"""After which a call into LiveKit is given up that should have ended by itself."""

_CODE = rtc.RpcError.ErrorCode
_RESULTS = {
    _CODE.UNSUPPORTED_METHOD: Result.UNREGISTERED,
    _CODE.RECIPIENT_NOT_FOUND: Result.GONE,
    _CODE.RECIPIENT_DISCONNECTED: Result.GONE,
    _CODE.REQUEST_PAYLOAD_TOO_LARGE: Result.TOO_LARGE,
    _CODE.UNSUPPORTED_SERVER: Result.NO_ANSWER,
    _CODE.UNSUPPORTED_VERSION: Result.NO_ANSWER,
    _CODE.CONNECTION_TIMEOUT: Result.NO_ANSWER,
    _CODE.RESPONSE_TIMEOUT: Result.NO_ANSWER,
    _CODE.SEND_FAILED: Result.NO_ANSWER,
}

_COMINGS_AND_GOINGS: tuple[rtc.room.EventTypes, ...] = (
    "participant_connected",
    "participant_active",
    "participant_disconnected",
)

Caller = Callable[[], rtc.RemoteParticipant | None]


def result_of(code: int) -> Result:
    """What an RPC that ended with LiveKit's error code has become. All other
    codes are of the handler, or of its answer."""
    return next((result for known, result in _RESULTS.items() if known == code), Result.REFUSED)


class RoomPort:
    """FrontendPort over a room. `caller` gives the participant to tell; one on
    the telephone has no frontend."""

    def __init__(self, room: rtc.Room, caller: Caller) -> None:
        self._room = room
        self._caller = caller
        self._known: tuple[str, str, int] | None = None
        self._tell: Callable[[bool], None] | None = None

    def watch(self, tell: Callable[[bool], None]) -> None:
        """Call `tell` with whether there is a caller, now and whenever another
        one, or the same one anew, is there. Call it after the session was
        started, so that LiveKit has looked at a participant before."""
        self._tell = tell
        for event in _COMINGS_AND_GOINGS:
            self._room.on(event, self._on_participant)  # pyright: ignore[reportUnknownMemberType]
        self._look()

    def unwatch(self) -> None:
        """The end of `watch`."""
        if self._tell is not None:
            self._tell = None
            for event in _COMINGS_AND_GOINGS:
                self._room.off(event, self._on_participant)  # pyright: ignore[reportUnknownMemberType]

    async def rpc(self, method: str, payload: str) -> None:
        """See FrontendPort."""
        to = self._to()
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await self._room.local_participant.perform_rpc(
                    destination_identity=to,
                    method=method,
                    payload=payload,
                    response_timeout=RESPONSE_SECONDS,
                )
        except rtc.RpcError as error:
            raise NotDelivered(result_of(error.code), str(int(error.code))) from error
        except TimeoutError as error:
            raise NotDelivered(Result.NO_ANSWER, "no end") from error

    async def text(self, topic: str, payload: str) -> None:
        """See FrontendPort."""
        to = self._to()
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await self._room.local_participant.send_text(
                    payload, destination_identities=[to], topic=topic
                )
        except TimeoutError as error:
            raise NotDelivered(Result.FAILED, "no end") from error

    def _to(self) -> str:
        self._look()
        if self._known is None:
            raise NotDelivered(Result.GONE, "no caller")
        return self._known[0]

    def _on_participant(self, _: rtc.RemoteParticipant) -> None:
        self._look()

    def _look(self) -> None:
        """Tell of it if the caller is not the one that was known."""
        caller = self._caller()
        there = None
        if caller is not None and caller.kind != rtc.ParticipantKind.PARTICIPANT_KIND_SIP:
            # by its state too: before it is active it may miss what it is sent
            there = (caller.identity, caller.sid, int(caller.state))
        if there != self._known:
            self._known = there
            if self._tell is not None:
                self._tell(there is not None)
