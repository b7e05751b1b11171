"""SessionService over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

from control_plane.store import SqliteStore
from tests.contract.session_samples import ENDED, LOST, NOW, report, session, turn
from tests.unit.server.in_process import refusal
from tests.unit.sessions.session_server import NodeClient, SessionServer, session_server
from tests.unit.sessions.session_world import FaultyStore
from voxplane.errors import VoxplaneError, to_status
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import session_pb2
from voxplane.v1 import session_service_pb2 as pb2

SECONDS_MAX = 20.0
S1 = {"tenant_id": "acme", "session_id": "s1"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SessionServer]:
    """A control plane."""
    async with session_server(tmp_path) as running:
        yield running


async def _ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream has ended; what it still says is passed over."""
    with suppress(grpc.aio.AioRpcError):
        while await asyncio.wait_for(call.read(), SECONDS_MAX) is not grpc.aio.EOF:
            pass
    return await call.code(), await call.details()


async def _pages(server: SessionServer, **fields: Any) -> list[list[str]]:
    """The ids on each page of a list of acme's sessions."""
    request = pb2.ListSessionsRequest(tenant_id="acme", **fields)
    pages: list[list[str]] = []
    while True:
        answer = await server.service.ListSessions(request)
        pages.append([each.session_id for each in answer.sessions])
        request.page_token = answer.next_page_token
        if not request.page_token:
            return pages


class TestReads:
    async def test_a_session_and_its_turns(self, server: SessionServer) -> None:
        """What a node has reported is shown, with its turns in order."""
        node = await server.node()
        await node.report(report(session(user_id="ann", node_id=""), turn(1, interrupted=True), turn(2)))
        answer = await server.service.GetSession(pb2.GetSessionRequest(**S1))
        assert answer.session == session(user_id="ann")
        assert list(answer.turns) == [turn(1, interrupted=True), turn(2)]

    async def test_a_session_that_is_not_there(self, server: SessionServer) -> None:
        """It is said so, with its name."""
        refused = await refusal(server.service.GetSession(pb2.GetSessionRequest(**S1)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")

    async def test_a_list_comes_in_pages(self, server: SessionServer) -> None:
        """All sessions come once, the newest first, also those that began at the
        same time, and those with ids of any letters."""
        names = ["s1", "s 2", "s3 💬" * 20, "ü" * 128, "s5"]
        node = await server.node()
        await node.report(*(report(session(name, started=NOW + at // 2)) for at, name in enumerate(names)))
        pages = await _pages(server, page_size=2)
        assert [len(page) for page in pages] == [2, 2, 1]
        listed = [name for page in pages for name in page]
        assert listed == ["s5", *sorted(names[2:4], reverse=True), *sorted(names[:2], reverse=True)]

    async def test_a_list_is_narrowed(self, server: SessionServer) -> None:
        """By agent, state, version, node and user."""
        one, two = await server.node("n1"), await server.node("n2")
        await one.report(report(session("s1", version=1, user_id="ann")), report(session("s2", state=ENDED)))
        await two.report(report(session("s3", version=1, agent_id="care")))
        assert await _pages(server, agent_id="care") == [["s3"]]
        assert await _pages(server, state=ENDED) == [["s2"]]
        assert await _pages(server, version=1) == [["s3", "s1"]]
        assert await _pages(server, node_id="n2") == [["s3"]]
        assert await _pages(server, user_id="ann") == [["s1"]]
        assert await _pages(server, user_id="ann", state=LOST) == [[]]

    @pytest.mark.parametrize("token", ["x", "!", "AAAAAAAAAAAAAAAAAAAA"])
    async def test_a_token_of_nobody_is_refused(self, server: SessionServer, token: str) -> None:
        """A token that was not given is refused."""
        request = pb2.ListSessionsRequest(tenant_id="acme", page_token=token)
        assert (await refusal(server.service.ListSessions(request))).reason == "PAGE_TOKEN"

    async def test_a_token_is_good_for_its_list_alone(self, server: SessionServer) -> None:
        """A token of a list that was narrowed otherwise is refused."""
        node = await server.node()
        await node.report(report(session("s1")), report(session("s2")))
        first = await server.service.ListSessions(pb2.ListSessionsRequest(tenant_id="acme", page_size=1))
        request = pb2.ListSessionsRequest(
            tenant_id="acme", agent_id="sales", page_size=1, page_token=first.next_page_token
        )
        refused = await refusal(server.service.ListSessions(request))
        assert (refused.reason, list(refused.fields)) == ("PAGE_TOKEN", ["page_token"])


class TestReports:
    @pytest.mark.parametrize(
        ("message", "field"),
        [
            (pb2.ReportSessionsRequest(hello=pb2.SessionReporter()), "hello.node_id"),
            (pb2.ReportSessionsRequest(batch=pb2.SessionBatch(sequence=1)), "batch"),
        ],
        ids=["no node", "no hello"],
    )
    async def test_a_stream_begins_with_a_valid_hello(
        self, server: SessionServer, message: pb2.ReportSessionsRequest, field: str
    ) -> None:
        """Anything else ends it with INVALID_ARGUMENT and the field's path."""
        call = server.service.ReportSessions()
        await call.write(message)
        code, details = await _ended(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        trailers = dict(await call.trailing_metadata())
        assert field in str(trailers["grpc-status-details-bin"])
        assert details

    @pytest.mark.parametrize("turns", [1, 90])
    async def test_each_message_is_judged(self, server: SessionServer, turns: int) -> None:
        """A later message that breaks the contract ends the stream, short or
        long; what was stored before stays."""
        node = await server.node()
        await node.report(report(session()))
        batch = pb2.SessionBatch(sequence=2)
        for _ in range(10):
            batch.reports.append(report(session("s2"), *(turn(at) for at in range(turns))))
        batch.reports.append(report(session("s3", tenant_id="NO")))
        await node.call.write(pb2.ReportSessionsRequest(batch=batch))
        code, details = await _ended(node.call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "batch.reports[10].session.tenant_id" in details
        assert await _pages(server) == [["s1"]]

    async def test_what_is_beyond_the_contract_is_not_stored(self, server: SessionServer) -> None:
        """Fields that this contract does not have are dropped."""
        node = await server.node()
        extended = session().SerializeToString() + b"\xfa\x7f\x04what"
        await node.report(report(session_pb2.Session.FromString(extended)))
        answer = await server.service.GetSession(pb2.GetSessionRequest(**S1))
        assert answer.session.SerializeToString() == session().SerializeToString()

    async def test_a_newer_stream_takes_the_place(self, server: SessionServer) -> None:
        """The older stream of a node ends with ABORTED."""
        older = await server.node()
        await older.report(report(session()))
        newer = await server.node("n1", "s1")
        assert await _ended(older.call) == (
            grpc.StatusCode.ABORTED,
            "a newer stream has the node_id n1",
        )
        await newer.report(report(session(sequence=2)))

    async def test_a_node_that_leaves_has_its_answer(self, server: SessionServer) -> None:
        """A node that ends its side gets what is left, and an OK."""
        node = await server.node()
        await node.call.write(
            pb2.ReportSessionsRequest(batch=pb2.SessionBatch(sequence=7, reports=[report(session())]))
        )
        await node.call.done_writing()
        assert (await node.read()).stored_sequence == 7
        assert await _ended(node.call) == (grpc.StatusCode.OK, "")

    async def test_a_store_outage(self, tmp_path: Path) -> None:
        """While the store is out all is UNAVAILABLE, with a time to come again;
        what was acknowledged is there afterwards, and what was not is taken
        then."""
        store: Any = FaultyStore()
        table = store.sessions
        async with session_server(tmp_path, store) as server:
            node = await server.node()
            await node.report(report(session()))
            table.broken = True
            batch = pb2.SessionBatch(sequence=2, reports=[report(session(sequence=2), turn(1))])
            await node.call.write(pb2.ReportSessionsRequest(batch=batch))
            assert (await _ended(node.call))[0] is grpc.StatusCode.UNAVAILABLE
            for call in (
                server.service.GetSession(pb2.GetSessionRequest(**S1)),
                server.service.ListSessions(pb2.ListSessionsRequest(tenant_id="acme")),
                server.service.EndSession(pb2.EndSessionRequest(**S1)),
            ):
                refused = await refusal(call)
                assert (refused.code, refused.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "STORE_UNAVAILABLE",
                )
                retry = [each for each in refused.status.details if "RetryInfo" in each.type_url]
                assert error_details_pb2.RetryInfo.FromString(retry[0].value).retry_delay.ToSeconds() == 1
            watch = server.watch()
            assert (await _ended(watch))[0] is grpc.StatusCode.UNAVAILABLE
            again = await server.node("n1", "s1")
            assert (await _ended(again.call))[0] is grpc.StatusCode.UNAVAILABLE
            table.broken = False
            again = await server.node("n1", "s1")
            await again.report(*batch.reports)
            answer = await server.service.GetSession(pb2.GetSessionRequest(**S1))
            assert (answer.session.sequence, [each.turn for each in answer.turns]) == (2, [1])


class TestCommands:
    async def test_end(self, server: SessionServer) -> None:
        """EndSession reaches the node with all that it says, and the answer is
        the session as it was then."""
        node = await server.node()
        await node.report(report(session()))
        request = pb2.EndSessionRequest(**S1, now=True, reason="closing time")
        call = server.service.EndSession(request)
        command = await node.serve()
        assert command.end == pb2.EndSessionAction(now=True, reason="closing time")
        assert (await call).session == session()

    async def test_pin(self, server: SessionServer) -> None:
        """PinSession answers with the pin, though the node has not reported it
        yet; the node is given the version, which no alias may name."""
        await server.versions(5)
        node = await server.node()
        await node.report(report(session()))
        call = server.service.PinSession(pb2.PinSessionRequest(**S1, version=4))
        command = await node.serve()
        assert command.pin_version == 4
        assert command.pinned_content.config.prompt_config.instructions == "v4"
        assert command.pinned_content.content_hash
        assert (await call).session == session(pinned_version=4)
        stored = await server.service.GetSession(pb2.GetSessionRequest(**S1))
        assert stored.session.pinned_version == 0

    async def test_a_pin_to_a_version_that_is_not_there(self, server: SessionServer) -> None:
        """It is NOT_FOUND, without asking the node."""
        await server.versions(1)
        node = await server.node()
        await node.report(report(session()))
        refused = await refusal(server.service.PinSession(pb2.PinSessionRequest(**S1, version=2)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")

    async def test_the_end_of_a_pin(self, server: SessionServer) -> None:
        """Version 0 has the session follow its alias again."""
        node = await server.node()
        await node.report(report(session(pinned_version=4)))
        call = server.service.PinSession(pb2.PinSessionRequest(**S1))
        command = await node.serve()
        assert (command.pin_version, command.HasField("pinned_content")) == (0, False)
        assert (await call).session.pinned_version == 0

    @pytest.mark.parametrize("enabled", [True, False])
    async def test_trace(self, server: SessionServer, enabled: bool) -> None:
        """SetSessionTracing says on or off."""
        node = await server.node()
        await node.report(report(session(traced=not enabled)))
        call = server.service.SetSessionTracing(pb2.SetSessionTracingRequest(**S1, enabled=enabled))
        command = await node.serve()
        assert (command.WhichOneof("action"), command.trace) == ("trace", enabled)
        assert (await call).session.traced == enabled

    async def test_a_session_that_is_over(self, server: SessionServer) -> None:
        """It is FAILED_PRECONDITION, without asking the node."""
        node = await server.node()
        await node.report(report(session(state=ENDED)))
        refused = await refusal(server.service.EndSession(pb2.EndSessionRequest(**S1)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_ENDED")

    async def test_a_node_that_has_gone(self, server: SessionServer) -> None:
        """It is UNAVAILABLE, with the node's name."""
        node = await server.node()
        await node.report(report(session()))
        node.call.cancel()
        while server.control_plane.sessions.links.count:  # noqa: ASYNC110 - gRPC tells no one
            await asyncio.sleep(0.01)
        refused = await refusal(server.service.PinSession(pb2.PinSessionRequest(**S1)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "NODE_UNREACHABLE")
        assert "n1" in refused.status.message

    async def test_a_node_that_does_not_answer(self, tmp_path: Path) -> None:
        """After the deadline it is UNAVAILABLE."""
        async with session_server(tmp_path, session_command_seconds=0.1) as server:
            node = await server.node()
            await node.report(report(session()))
            refused = await refusal(server.service.PinSession(pb2.PinSessionRequest(**S1)))
            assert refused.reason == "NODE_UNREACHABLE"

    async def test_what_the_node_has_against_it(self, server: SessionServer) -> None:
        """The node's reason and words are the caller's answer."""
        await server.versions(9)
        node = await server.node()
        await node.report(report(session()))
        call = server.service.PinSession(pb2.PinSessionRequest(**S1, version=9))
        error = VoxplaneError(reason_pb2.ERROR_REASON_VERSION_NOT_FOUND, "there is no v9")
        await node.answer((await node.read()).command, to_status(error))
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
        assert refused.status.message == "there is no v9"

    async def test_who_commands_is_logged_and_what_they_say_is_not(self, server: SessionServer) -> None:
        """A command leaves a line with who, whose and what; never its reason's
        text, which may be anything."""
        node = await server.node()
        await node.report(report(session()))
        with capture_logs() as logs:
            call = server.service.EndSession(pb2.EndSessionRequest(**S1, reason="he said his name is Bob"))
            await node.serve()
            await call
        (line,) = [each for each in logs if each["event"] == "a session was commanded"]
        assert (line["tenant_id"], line["session_id"], line["principal"]) == ("acme", "s1", "anonymous")
        assert (line["action"], line["node_id"]) == ("end", "n1")
        assert "Bob" not in json.dumps(logs)


class TestWatch:
    async def test_a_watch_from_its_list_on(self, server: SessionServer) -> None:
        """First come those that run, then synced, then each change."""
        node = await server.node()
        await node.report(report(session("s1")), report(session("s2", state=ENDED)))
        watch = server.watch()
        assert (await watch.read()).changed.session == session("s1")
        assert (await watch.read()).synced.sessions == 1
        await node.report(report(session("s1", 2), turn(1)))
        changed = (await watch.read()).changed
        assert (changed.session, list(changed.turns)) == (session("s1", 2), [turn(1)])
        watch.cancel()

    async def test_a_watcher_that_does_not_read_is_given_up(self, server: SessionServer) -> None:
        """It costs its node nothing; past the bound its stream ends with
        RESOURCE_EXHAUSTED, also while it does not read."""
        node = await server.node()
        watch = server.watch()
        assert (await watch.read()).HasField("synced")
        room = "x" * 200
        for at in range(0, 60_000, 500):
            await node.report(
                *(report(session(f"{at + n}", room=room, end_reason=room, state=ENDED)) for n in range(500))
            )
            if not server.control_plane.sessions.watchers.count:
                break
        assert server.control_plane.sessions.watchers.count == 0
        code, _ = await _ended(watch)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_watcher_that_goes_is_forgotten(self, server: SessionServer) -> None:
        """A watcher that has gone leaves nothing behind."""
        watch = server.watch()
        assert (await watch.read()).HasField("synced")
        watch.cancel()
        while server.control_plane.sessions.watchers.count:  # noqa: ASYNC110 - gRPC tells no one
            await asyncio.sleep(0.01)


async def test_streams_end_with_their_server(tmp_path: Path) -> None:
    """When the server goes, nodes and watchers are told to come again."""
    async with session_server(tmp_path) as server:
        node = await server.node()
        await node.report(report(session()))
        watch = server.watch()
        await watch.read()
        await server.control_plane.stop()
        for call in (node.call, watch):
            code, details = await _ended(call)
            assert (code, "going away" in details) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_a_restart_on_a_disk(tmp_path: Path) -> None:
    """Sessions outlive the control plane; a node that comes back goes on where
    it was, and what it sends again counts once."""
    path = tmp_path / "log.db"
    async with session_server(tmp_path, await SqliteStore.open(path)) as server:
        node = await server.node()
        await node.report(report(session("s1"), turn(1)), report(session("s2")))
    async with session_server(tmp_path, await SqliteStore.open(path)) as server:
        node = await server.node("n1", "s1")
        await node.report(report(session("s1"), turn(1)), report(session("s1", 2), turn(2)))
        answer = await server.service.GetSession(pb2.GetSessionRequest(**S1))
        assert (answer.session.sequence, [each.turn for each in answer.turns]) == (2, [1, 2])
        assert await _pages(server, state=LOST) == [["s2"]]


async def test_many_nodes_at_once(tmp_path: Path) -> None:
    """All that is acknowledged to many nodes is there, and the service answers
    meanwhile."""
    store = await SqliteStore.open(tmp_path / "log.db")
    async with session_server(tmp_path, store) as server:

        async def play(at: int) -> None:
            node = NodeClient(server.service, f"n{at}")
            await node.hello()
            for sequence in range(1, 6):
                await node.report(report(session(f"s{at}", sequence, version=sequence), turn(sequence)))
            await node.call.done_writing()

        await asyncio.gather(*(play(at) for at in range(100)))
        assert sum(map(len, await _pages(server, version=5))) == 100
        for at in (0, 99):
            answer = await server.service.GetSession(
                pb2.GetSessionRequest(tenant_id="acme", session_id=f"s{at}")
            )
            assert [each.turn for each in answer.turns] == [1, 2, 3, 4, 5]


async def test_every_session_can_be_shown_as_json(server: SessionServer) -> None:
    """What was taken from a node can be read by any client."""
    node = await server.node()
    await node.report(report(session(scores={"csat": float("nan")}), turn(1)))
    answer = await server.service.GetSession(pb2.GetSessionRequest(**S1))
    assert "NaN" in json_format.MessageToJson(answer)
