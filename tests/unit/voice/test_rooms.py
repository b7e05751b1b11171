"""What a node does to LiveKit's rooms, and how it tells of refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from google.protobuf.message import Message
from livekit import api
from livekit.protocol import models

from agent_node.calls.rooms import (
    ANNOUNCING_MAX,
    ANNOUNCING_TENANT_MAX,
    Announcer,
    LiveKitRooms,
    RoomsError,
    livekit_rooms,
)
from tests.unit.voice.call_world import FakeRooms
from tests.virtual_clock import VirtualClock

Kind, State = models.ParticipantInfo.Kind, models.ParticipantInfo.State
ROOMS, DISPATCHES = "livekit.RoomService", "livekit.AgentDispatchService"


class RoomServer:
    """The server's API: answers by method, and what it was asked. A status
    stands for an error."""

    def __init__(self) -> None:
        self.answers: dict[str, Message | tuple[int, str]] = {}
        self.asked: dict[str, bytes] = {}

    async def serve(self, request: web.Request) -> web.Response:
        """One call of Twirp."""
        method = request.match_info["method"]
        self.asked[method] = await request.read()
        answer = self.answers[method]
        if isinstance(answer, tuple):
            status, code = answer
            return web.json_response({"code": code, "msg": "no"}, status=status)
        return web.Response(body=answer.SerializeToString(), content_type="application/protobuf")


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RoomServer]:
    """The server, with the environment that leads to it."""
    made, app = RoomServer(), web.Application()
    app.router.add_post("/twirp/{service}/{method}", made.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("LIVEKIT_URL", f"ws://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("LIVEKIT_API_KEY", "devkey")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "s" * 40)
    yield made
    await runner.cleanup()


@pytest.fixture
async def rooms(server: RoomServer) -> AsyncIterator[LiveKitRooms]:
    """The rooms of the server."""
    async with livekit_rooms() as made:
        yield made


async def test_callers_are_those_who_are_no_machines(server: RoomServer, rooms: LiveKitRooms) -> None:
    """Telephones are callers; recorders, agents and those who are gone are not."""
    found = api.ListParticipantsResponse()
    found.participants.add(identity="ann", kind=Kind.STANDARD, state=State.ACTIVE)
    found.participants.add(identity="phone", kind=Kind.SIP, state=State.JOINING)
    found.participants.add(identity="bob", kind=Kind.STANDARD, state=State.DISCONNECTED)
    found.participants.add(identity="tape", kind=Kind.EGRESS, state=State.ACTIVE)
    ours = found.participants.add(identity="agent-1", kind=Kind.AGENT, state=State.ACTIVE)
    ours.attributes["voxplane.session_id"] = "s-1"
    server.answers["ListParticipants"] = found
    people = await rooms.people("room-1")
    assert (people.callers, people.connected) == (2, 1)
    assert people.holders("s-1") == {"agent-1"}
    assert people.holders("s-2") == set()


async def test_what_is_not_there_is_nothing_to_complain_of(server: RoomServer, rooms: LiveKitRooms) -> None:
    """A room that is gone has nobody in it; whoever is gone need not be put out."""
    for method in ("ListParticipants", "RemoveParticipant", "DeleteDispatch", "SendData"):
        server.answers[method] = (404, "not_found")
    assert (await rooms.people("room-1")).callers == 0
    await rooms.remove("room-1", "agent-1")
    await rooms.delete_dispatch("room-1", "AD_1")
    await rooms.send("room-1", "topic", b"data")
    assert len(server.asked) == 4


async def test_a_dispatch_asks_for_the_agent_with_its_metadata(
    server: RoomServer, rooms: LiveKitRooms
) -> None:
    """And gives the dispatch's id; there is none for a room that is gone."""
    server.answers["CreateDispatch"] = api.AgentDispatch(id="AD_7")
    assert await rooms.dispatch("room-1", "voxplane", "{}") == "AD_7"
    asked = api.CreateAgentDispatchRequest.FromString(server.asked["CreateDispatch"])
    assert (asked.room, asked.agent_name, asked.metadata) == ("room-1", "voxplane", "{}")
    server.answers["CreateDispatch"] = (404, "not_found")
    with pytest.raises(RoomsError, match="no such room"):
        await rooms.dispatch("room-1", "voxplane", "{}")


async def test_a_server_that_fails_or_is_away_is_one_kind_of_error(
    server: RoomServer, rooms: LiveKitRooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what happened, and nothing of who asked."""
    server.answers["ListParticipants"] = (500, "internal")
    with pytest.raises(RoomsError, match="LiveKit says internal"):
        await rooms.people("room-1")
    monkeypatch.setenv("LIVEKIT_URL", "ws://127.0.0.1:1")
    async with livekit_rooms() as away:
        with pytest.raises(RoomsError, match="cannot be reached"):
            await away.people("room-1")


class Telling:
    """An announcer with one room, in which nobody is connected yet."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.rooms = FakeRooms()
        self.rooms.callers = 0
        self.announcer = Announcer(self.rooms, self.clock)


async def test_a_refusal_waits_for_the_caller() -> None:
    """Who is not connected would miss it; it is said once."""
    telling = Telling()
    telling.announcer.announce("acme", "room-1", b"no", final=True)
    await telling.clock.advance(2)
    assert telling.rooms.sent == []
    telling.rooms.callers = 1
    await telling.clock.advance(60)
    assert telling.rooms.sent == [b"no"]
    assert telling.announcer.dropped == 0


async def test_a_refusal_of_one_node_is_not_told_where_another_has_come() -> None:
    """Other nodes have their time; only if none has come the caller hears of it."""
    telling = Telling()
    telling.rooms.callers = 1
    telling.announcer.announce("acme", "room-1", b"no", final=False)
    await telling.clock.settle()
    assert telling.rooms.sent == []
    telling.rooms.agents["agent-2"] = "s-1"
    await telling.clock.advance(60)
    assert telling.rooms.sent == []
    del telling.rooms.agents["agent-2"]
    telling.announcer.announce("acme", "room-1", b"no", final=False)
    await telling.clock.advance(60)
    assert telling.rooms.sent == [b"no"]


async def test_what_cannot_be_told_is_counted() -> None:
    """A caller who never connects, a server that is away, and too many at once."""
    telling = Telling()
    telling.announcer.announce("acme", "room-1", b"no", final=True)
    await telling.clock.advance(60)
    assert telling.announcer.dropped == 1
    telling.rooms.failures = 1000
    telling.announcer.announce("acme", "room-1", b"no", final=True)
    await telling.clock.advance(60)
    assert telling.announcer.dropped == 2
    for number in range(ANNOUNCING_MAX + 3):
        telling.announcer.announce(f"tenant-{number}", "room-1", b"no", final=True)
    assert telling.announcer.dropped == 5
    telling.announcer.close()
    await asyncio.sleep(0)
    assert telling.announcer.dropped == 5 + ANNOUNCING_MAX


async def test_a_tenant_with_many_refusals_does_not_silence_the_others() -> None:
    """Its own are dropped from a bound on."""
    telling = Telling()
    telling.rooms.callers = 1
    for _ in range(ANNOUNCING_MAX):
        telling.announcer.announce("acme", "room-1", b"acme", final=True)
    telling.announcer.announce("beta", "room-2", b"beta", final=True)
    await telling.clock.advance(1)
    assert telling.rooms.sent == [b"acme"] * ANNOUNCING_TENANT_MAX + [b"beta"]
    assert telling.announcer.dropped == ANNOUNCING_MAX - ANNOUNCING_TENANT_MAX
