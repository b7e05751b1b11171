"""The fast edge on sockets: TLS, deadlines, limits, and how it ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

from control_plane.edge.tls import Certificate, TlsFiles
from control_plane.fast_edge import FastEdge, Limits
from control_plane.fast_edge.connection import Connection
from tests.certificates import Authority
from tests.unit.fast_edge import frames
from tests.unit.server.secure_server import credentials, secure_server
from tests.unit.watch.tenant_log import config
from tests.unit.watch.watch_server import EDGE, WatchServer, watch_server
from voxplane.clock import SystemClock
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

WATCH = sync_pb2.WatchConfigRequest(tenant_id="acme")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane in virtual time, asked over the fast edge."""
    async with watch_server(tmp_path, EDGE) as running:
        yield running


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    """What a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def test_other_services_are_not_here(server: WatchServer) -> None:
    """The fast edge serves ConfigSyncService alone."""
    stub = agents_grpc.AgentServiceStub(server.sync_channel)
    code, details = await failure(stub.ListAgents(agents_pb2.ListAgentsRequest(tenant_id="acme")))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "/voxplane.v1.AgentService/ListAgents is not served here" in details


async def test_a_request_that_is_no_message_is_refused(server: WatchServer) -> None:
    """Bytes that cannot be read end their call, and nothing else."""
    channel, raw = server.sync_channel, b"\xff\xff\xff"
    unary = channel.unary_unary("/voxplane.v1.ConfigSyncService/FetchConfig")
    assert (await failure(unary(raw)))[0] is grpc.StatusCode.INTERNAL
    stream = channel.stream_unary("/voxplane.v1.ConfigSyncService/StreamConfigStatus")(iter([raw]))
    assert (await failure(stream))[0] is grpc.StatusCode.INTERNAL
    await server.create("sales")
    assert (await server.sync.FetchConfig(sync_pb2.FetchConfigRequest(tenant_id="acme"))).transfer.bundles


async def test_an_empty_request_is_a_message(server: WatchServer) -> None:
    """A message of no bytes is judged like any other."""
    unary = server.sync_channel.unary_unary(
        "/voxplane.v1.ConfigSyncService/FetchConfig",
        request_serializer=empty_pb2.Empty.SerializeToString,
    )
    code, details = await failure(unary(empty_pb2.Empty()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tenant_id" in details


async def test_a_deadline_ends_a_stream(server: WatchServer) -> None:
    """What a client does not wait for any longer is let go of."""
    await server.create("sales")
    call = server.sync.WatchConfig(WATCH, timeout=0.2)
    await call.read()
    assert server.control_plane.hub.streams == 1
    assert (await failure(call.read()))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not server.control_plane.hub.streams)


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what other tasks of the loop will do."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def raw_client(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that sends what it likes."""
    return await asyncio.open_unix_connection(address.removeprefix("unix:"))


async def test_the_servers_own_deadline(server: WatchServer) -> None:
    """The server does not trust a client to look at the time."""
    await server.create("sales")
    reader, writer = await raw_client(server.sync_address)
    fields = dict(frames.REQUEST) | {
        ":path": "/voxplane.v1.ConfigSyncService/WatchConfig",
        "grpc-timeout": "50m",
    }
    writer.write(frames.hello() + frames.headers(1, tuple(fields.items())))
    writer.write(frames.frame(frames.DATA, frames.END_STREAM, 1, frames.message(WATCH.SerializeToString())))
    said = b""
    while not any(
        flags & frames.END_STREAM for kind, flags, *_ in frames.split(said) if kind == frames.HEADERS
    ):
        said += await reader.read(65_536)
    assert frames.status_of(said)["grpc-status"] == "4"
    writer.close()


async def test_a_torrent_disturbs_nobody(server: WatchServer) -> None:
    """A client that floods is cut off; one that is served at the same time
    does not notice."""
    await server.create("sales")
    call = server.sync.WatchConfig(WATCH)
    await call.read()
    _, writer = await raw_client(server.sync_address)
    await until(lambda: server.control_plane.counts()["edge_connections"] == 2)
    assert server.control_plane.counts()["edge_connections"] == 2
    writer.write(frames.hello() + frames.frame(frames.PING, 0, 0, b"12345678") * 20_000)
    await until(lambda: server.control_plane.counts()["edge_connections"] == 1)
    revision = await server.update("sales", "Sell.")
    message = await call.read()
    assert isinstance(message, sync_pb2.WatchConfigResponse)
    assert message.transfer.revision.number == revision
    writer.close()


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """One more than may be open is closed at once, and may come again."""
    async with watch_server(tmp_path, EDGE, edge_connections_max=2) as server:
        clients = [await raw_client(server.sync_address) for _ in range(2)]
        for reader, writer in clients:
            writer.write(frames.hello())
            assert await reader.read(1)
        reader, writer = await raw_client(server.sync_address)
        assert await reader.read() == b""
        writer.close()
        assert server.control_plane.counts()["edge_refused"] == 1
        clients[0][1].close()
        await until(lambda: server.control_plane.counts()["edge_connections"] < 2)
        reader, writer = await raw_client(server.sync_address)
        writer.write(frames.hello())
        assert await reader.read(1)
        for _, each in (*clients, (reader, writer)):
            each.close()


async def test_silence_ends_a_connection(server: WatchServer) -> None:
    """A client that says nothing is left in seconds."""
    reader, writer = await raw_client(server.sync_address)
    await until(lambda: server.control_plane.counts()["edge_connections"] == 1)
    await server.clock.advance(12)
    assert b"\x07" in await reader.read()
    writer.close()


async def test_the_end_of_the_server_is_told(tmp_path: Path) -> None:
    """A server that stops sends GOAWAY, drains its streams, and ends them with
    a reason; nothing listens then."""
    async with watch_server(tmp_path, EDGE) as server:
        await server.create("sales")
        call = server.sync.WatchConfig(WATCH)
        await call.read()
        stopping = asyncio.create_task(server.clock.finish(server.control_plane.stop()))
        drain = await call.read()
        assert isinstance(drain, sync_pb2.WatchConfigResponse)
        assert drain.HasField("drain")
        assert (await failure(call.read()))[0] is grpc.StatusCode.UNAVAILABLE
        await stopping
        with pytest.raises(OSError, match=r"."):
            await raw_client(server.sync_address)


async def test_a_request_that_crosses_the_goodbye_is_answered(server: WatchServer) -> None:
    """A server that stops waits for what a client has sent before it knew, and
    not for a client that never answers."""
    await server.create("sales")
    reader, writer = await raw_client(server.sync_address)
    _, silent = await raw_client(server.sync_address)
    for each in (writer, silent):
        each.write(frames.hello())
    await until(lambda: server.control_plane.counts()["edge_connections"] == 2)
    stopping = asyncio.create_task(server.control_plane.stop_edge())
    said = b""
    while frames.PING not in kinds(said):
        said += await reader.read(65_536)
    [ping] = [payload for kind, _, _, payload in frames.split(said) if kind == frames.PING]
    path = {":path": "/voxplane.v1.ConfigSyncService/FetchConfig"}
    writer.write(frames.headers(1, tuple((dict(frames.REQUEST) | path).items())))
    fetch = sync_pb2.FetchConfigRequest(tenant_id="acme").SerializeToString()
    writer.write(frames.frame(frames.DATA, frames.END_STREAM, 1, frames.message(fetch)))
    writer.write(frames.frame(frames.PING, frames.ACK, 0, ping))
    said = b""
    while not any(
        flags & frames.END_STREAM for kind, flags, *_ in frames.split(said) if kind == frames.HEADERS
    ):
        said += await reader.read(65_536)
    assert frames.status_of(said)["grpc-status"] == "0"
    assert not stopping.done()
    while not stopping.done():
        await server.clock.advance(0.5)
    assert kinds(await reader.read())[-1] == frames.GOAWAY
    for each in (writer, silent):
        each.close()


def kinds(said: bytes) -> list[int]:
    """Of the frames that have come."""
    return [kind for kind, *_ in frames.split(said)]


async def test_nodes_are_offered_the_edge(tmp_path: Path) -> None:
    """The first message for a node on gRPC says where the edge is; nobody else
    is told, and the edge itself says nothing."""
    async with watch_server(tmp_path, EDGE) as server:
        await server.create("sales")
        stub = sync_grpc.ConfigSyncServiceStub(server.channel)
        node = sync_pb2.WatchConfigRequest(tenant_id="acme", node=sync_pb2.NodeInfo(node_id="n1"))
        seen: list[sync_pb2.WatchConfigResponse] = []
        for asked, request in ((stub, node), (stub, WATCH), (server.sync, node)):
            call = asked.WatchConfig(request)
            message = await call.read()
            assert isinstance(message, sync_pb2.WatchConfigResponse)
            seen.append(message)
        assert seen[0].edge_offer.address == server.sync_address
        assert [message.HasField("edge_offer") for message in seen] == [True, False, False]


async def test_both_listeners_speak_tls(tmp_path: Path) -> None:
    """One certificate serves both; the offer says so."""
    authority = Authority(tmp_path)
    async with (
        secure_server(authority.identity("server")) as server,
        grpc.aio.secure_channel(server.grpc, credentials(authority)) as channel,
        grpc.aio.secure_channel(server.edge, credentials(authority)) as fast,
    ):
        create = agents_pb2.CreateAgentRequest(tenant_id="acme", agent_id="sales", config=config("x" * 9_000))
        create.config.llm_config.provider = "offline"
        await agents_grpc.AgentServiceStub(channel).CreateAgent(create)
        node = sync_pb2.WatchConfigRequest(tenant_id="acme", node=sync_pb2.NodeInfo(node_id="n1"))
        first = await sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(node).read()
        assert isinstance(first, sync_pb2.WatchConfigResponse)
        assert first.edge_offer == sync_pb2.EdgeOffer(address=f":{server.edge.rpartition(':')[2]}", tls=True)
        second = await sync_grpc.ConfigSyncServiceStub(fast).WatchConfig(WATCH).read()
        assert isinstance(second, sync_pb2.WatchConfigResponse)
        assert second.transfer.bundles == first.transfer.bundles


async def test_a_certificate_of_the_client_is_asked_for(tmp_path: Path) -> None:
    """With an authority of clients, nobody else is let in, by either listener."""
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    async with secure_server(ours.identity("server"), ours.ca) as server:
        for address in (server.grpc, server.edge):
            for client, let_in in (
                (None, False),
                (others.identity("c1"), False),
                (ours.identity("c2"), True),
            ):
                async with grpc.aio.secure_channel(address, credentials(ours, client)) as channel:
                    call = sync_grpc.ConfigSyncServiceStub(channel).FetchConfig(
                        sync_pb2.FetchConfigRequest(tenant_id="acme")
                    )
                    if let_in:
                        await call
                    else:
                        assert (await failure(call))[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("alpn", "version"), [([], None), (["http/1.1"], None), (["h2"], ssl.TLSVersion.TLSv1_1)]
)
async def test_tls_without_http_2_is_refused(
    tmp_path: Path, alpn: list[str], version: ssl.TLSVersion | None
) -> None:
    """A client has to say by ALPN that it speaks HTTP/2, over TLS 1.2 or newer."""
    authority = Authority(tmp_path)
    async with secure_server(authority.identity("server")) as server:
        host, _, port = server.edge.rpartition(":")
        context = ssl.create_default_context(cafile=str(authority.ca))
        if alpn:
            context.set_alpn_protocols(alpn)
        if version is not None:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = version
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(frames.hello() + frames.frame(frames.PING, 0, 0, b"12345678"))
            said = await reader.read()
        except OSError:
            said = b""
        assert said == b""


async def test_plain_text_on_a_tls_port_is_refused(tmp_path: Path) -> None:
    """Who does not speak TLS gets nothing of the server."""
    authority = Authority(tmp_path)
    async with secure_server(authority.identity("server")) as server:
        host, _, port = server.edge.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(frames.hello() + frames.headers(1, end=True))
        assert frames.PREFACE not in await reader.read()
        assert server.control_plane.counts()["edge_connections"] == 0
        writer.close()


async def test_a_connection_that_fails_leaves_the_others_their_time(
    server: WatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in one is its end; silence ends the next one all the same."""
    broken = await raw_client(server.sync_address)
    await until(lambda: server.control_plane.counts()["edge_connections"] == 1)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "tick", lambda self, now: 1 / 0)
        await server.clock.advance(1)
        await until(lambda: server.control_plane.counts()["edge_connections"] == 0)
    reader, writer = await raw_client(server.sync_address)
    await until(lambda: server.control_plane.counts()["edge_connections"] == 1)
    await server.clock.advance(12)
    assert b"\x07" in await reader.read()
    writer.close()
    broken[1].close()


async def test_a_tls_handshake_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """Nobody counts a connection before its handshake, so it has little time."""
    identity = Authority(tmp_path).identity("server")
    context = Certificate(TlsFiles(identity.cert, identity.key)).context
    edge = FastEdge("a.Service", {}, [], SystemClock(), limits=Limits(handshake_seconds=0.05), tls=context)
    host, _, port = (await edge.start("127.0.0.1:0")).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    await edge.stop(0)


async def test_a_handshake_that_ends_after_the_server_is_refused(tmp_path: Path) -> None:
    """A connection that was accepted before the end, and is ready after it, is
    served by nobody."""
    authority = Authority(tmp_path)
    identity = authority.identity("server")
    made = Certificate(TlsFiles(identity.cert, identity.key)).context
    edge = FastEdge("a.Service", {}, [], SystemClock(), tls=made)
    host, _, port = (await edge.start("127.0.0.1:0")).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(20):
        await asyncio.sleep(0)
    await edge.stop(0)
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.set_alpn_protocols(["h2"])
    try:
        await writer.start_tls(context, server_hostname=host)
        writer.write(frames.hello() + frames.headers(1, end=True))
        async with asyncio.timeout(20):
            said = await reader.read()
    except OSError:
        said = b""
    assert (said, edge.connections) == (b"", 0)
    writer.close()
