"""What the node does to LiveKit's rooms by the server's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import aiohttp
import structlog
from livekit import api
from livekit.protocol import models

from voxplane.clock import Clock

SESSION_ATTRIBUTE = "voxplane.session_id"
"""Which session an agent in a room holds."""
API_SECONDS_MAX = 3.0
REJECTED_TOPIC = "voxplane.rejected"
OTHERS_SECONDS = 4.0
"""For other nodes to be asked, and to come."""
ANNOUNCE_SECONDS_MAX = 20.0
ANNOUNCE_POLL_SECONDS = 0.25
"""At first; twice as long each time."""
ANNOUNCING_MAX = 64
ANNOUNCING_TENANT_MAX = 16
"""Of one tenant, so that its callers do not silence those of others."""

_NOT_CALLERS = (
    models.ParticipantInfo.Kind.AGENT,
    models.ParticipantInfo.Kind.INGRESS,
    models.ParticipantInfo.Kind.EGRESS,
)

T = TypeVar("T")

_log = structlog.stdlib.get_logger(__name__)


class RoomsError(Exception):
    """LiveKit could not be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class People:
    """Who is in a room. `connected` counts the callers who can be sent data;
    `agents` are ours, as pairs of identity and session."""

    callers: int = 0
    connected: int = 0
    agents: frozenset[tuple[str, str]] = frozenset()

    def holders(self, session_id: str) -> set[str]:
        """The identities of the agents that hold a session."""
        return {identity for identity, session in self.agents if session == session_id}


class Rooms(Protocol):
    """All of it raises RoomsError, and answers within API_SECONDS_MAX."""

    async def people(self, room: str) -> People:
        """Who is there; nobody if there is no such room."""
        ...

    async def remove(self, room: str, identity: str) -> None:
        """Put somebody out; nothing if they are not there."""
        ...

    async def dispatch(self, room: str, agent_name: str, metadata: str) -> str:
        """Ask for an agent; the dispatch's id."""
        ...

    async def delete_dispatch(self, room: str, dispatch_id: str) -> None:
        """Forget a dispatch, and end the jobs that it has; nothing if there is none."""
        ...

    async def send(self, room: str, topic: str, data: bytes) -> None:
        """Send data to everybody who is connected."""
        ...


class LiveKitRooms:
    """Rooms by LiveKit's own client."""

    def __init__(self, client: api.LiveKitAPI) -> None:
        self._client = client

    async def people(self, room: str) -> People:
        """See Rooms."""
        listing = self._client.room.list_participants(api.ListParticipantsRequest(room=room))
        found = await _or_none(listing)
        present = [
            each
            for each in (found.participants if found else ())
            if each.state != models.ParticipantInfo.State.DISCONNECTED
        ]
        callers = [each for each in present if each.kind not in _NOT_CALLERS]
        return People(
            callers=len(callers),
            connected=sum(each.state == models.ParticipantInfo.State.ACTIVE for each in callers),
            agents=frozenset(
                (each.identity, each.attributes.get(SESSION_ATTRIBUTE, ""))
                for each in present
                if each.kind == models.ParticipantInfo.Kind.AGENT
            ),
        )

    async def remove(self, room: str, identity: str) -> None:
        """See Rooms."""
        wanted = api.RoomParticipantIdentity(room=room, identity=identity)
        await _or_none(self._client.room.remove_participant(wanted))

    async def dispatch(self, room: str, agent_name: str, metadata: str) -> str:
        """See Rooms."""
        wanted = api.CreateAgentDispatchRequest(room=room, agent_name=agent_name, metadata=metadata)
        made = await _or_none(self._client.agent_dispatch.create_dispatch(wanted))
        if made is None:
            raise RoomsError("there is no such room")
        return made.id

    async def delete_dispatch(self, room: str, dispatch_id: str) -> None:
        """See Rooms."""
        await _or_none(self._client.agent_dispatch.delete_dispatch(dispatch_id, room))

    async def send(self, room: str, topic: str, data: bytes) -> None:
        """See Rooms."""
        packet = api.SendDataRequest(room=room, topic=topic, data=data, kind=models.DataPacket.Kind.RELIABLE)
        await _or_none(self._client.room.send_data(packet))


class Announcer:
    """Tells rooms of refusals, as well as it can. What is too much at once is
    dropped.

    A message of the server reaches only who is connected, and a refusal is often
    faster than the caller: so each waits for one, up to ANNOUNCE_SECONDS_MAX. One
    that leaves the call to other nodes is told only if none of them has come.
    """

    def __init__(self, rooms: Rooms, clock: Clock) -> None:
        self._rooms = rooms
        self._clock = clock
        self._tasks: dict[asyncio.Task[None], str] = {}
        self.dropped = 0

    def announce(self, tenant_id: str, room: str, data: bytes, *, final: bool) -> None:
        """Tell a room of a tenant, some time later."""
        of_tenant = sum(tenant == tenant_id for tenant in self._tasks.values())
        if len(self._tasks) >= ANNOUNCING_MAX or of_tenant >= ANNOUNCING_TENANT_MAX or not room:
            self.dropped += 1
            return
        task = asyncio.create_task(self._tell(room, data, final=final), name="tell a room")
        self._tasks[task] = tenant_id
        task.add_done_callback(self._tasks.pop)

    def close(self) -> None:
        """Drop what still waits."""
        self.dropped += len(self._tasks)
        for task in self._tasks:
            task.cancel()

    async def _tell(self, room: str, data: bytes, *, final: bool) -> None:
        ends = self._clock.monotonic() + ANNOUNCE_SECONDS_MAX
        pause = ANNOUNCE_POLL_SECONDS
        if not final:
            await self._clock.sleep(OTHERS_SECONDS)
        while True:
            with suppress(RoomsError):
                people = await self._rooms.people(room)
                if not final and any(session for _, session in people.agents):
                    return
                if people.connected:
                    await self._rooms.send(room, REJECTED_TOPIC, data)
                    return
            if self._clock.monotonic() + pause > ends:
                break
            await self._clock.sleep(pause)
            pause *= 2
        self.dropped += 1


@asynccontextmanager
async def livekit_rooms() -> AsyncGenerator[LiveKitRooms]:
    """Rooms of the server that LIVEKIT_URL names, by one client for the block."""
    timeout = aiohttp.ClientTimeout(total=API_SECONDS_MAX)
    async with aiohttp.ClientSession(timeout=timeout) as session, api.LiveKitAPI(session=session) as client:
        yield LiveKitRooms(client)


async def _or_none(asked: Coroutine[Any, Any, T]) -> T | None:
    """The answer; None if what was asked for does not exist."""
    try:
        async with asyncio.timeout(API_SECONDS_MAX):
            return await asked
    except api.ServerError as error:
        if error.code == api.ServerErrorCode.NOT_FOUND:
            return None
        raise RoomsError(f"LiveKit says {error.code}") from error
    except TimeoutError:
        raise RoomsError(f"LiveKit has not answered within {API_SECONDS_MAX:g} s") from None
    except aiohttp.ClientError as error:
        raise RoomsError(f"LiveKit cannot be reached: {type(error).__name__}") from error
