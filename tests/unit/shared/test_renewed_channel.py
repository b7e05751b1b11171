"""A client whose certificate is renewed while it runs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent_node.upstream import connect
from tests.certificates import Authority, Identity
from tests.unit.server.secure_server import SecureServer, secure_server
from voxplane.channel import RenewedChannel
from voxplane.tls import ClientTls, TlsError
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc


def put(identity: Identity, folder: Path) -> ClientTls:
    """Have the client's files be those of an identity."""
    shutil.copy(identity.cert, folder / "client.pem")
    shutil.copy(identity.key, folder / "client.key")
    return ClientTls(folder / "ours.pem", folder / "client.pem", folder / "client.key")


async def ask(channel: grpc.aio.Channel) -> None:
    """A call that is let in."""
    await nodes_grpc.NodeServiceStub(channel).ListNodes(nodes_pb2.ListNodesRequest(), timeout=10)


async def test_a_renewed_certificate_is_shown_by_the_next_call(tmp_path: Path) -> None:
    """What a node opened with a certificate that is not taken comes to life when
    its files are replaced, without a restart; so does its edge."""
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    tls = put(others.identity("stranger"), tmp_path)
    async with secure_server(ours.identity("server"), ours.ca) as server:
        for address in (server.grpc, server.edge):
            put(others.identity("stranger"), tmp_path)
            async with connect(address, tls=tls) as channel:
                stub = sync_grpc.ConfigSyncServiceStub(channel)
                fetch = sync_pb2.FetchConfigRequest(tenant_id="acme")
                with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                    await stub.FetchConfig(fetch)
                put(ours.identity("friend"), tmp_path)
                await stub.FetchConfig(fetch)
                await channel.channel_ready()


async def test_a_stream_goes_on_over_the_renewal(tmp_path: Path) -> None:
    """Calls that run keep their connection; the channel of the old certificate is
    closed with the last of them."""
    ours = Authority(tmp_path, "ours")
    tls = put(ours.identity("first"), tmp_path)
    opened: list[Watched] = []
    async with secure_server(ours.identity("server"), ours.ca) as server:
        async with RenewedChannel(tls, opens(server, opened)) as channel:
            watch = sync_pb2.WatchConfigRequest(tenant_id="acme")
            call = sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(watch)
            await call.read()
            put(ours.identity("second"), tmp_path)
            await ask(channel)
            assert [each.closed for each in opened] == [False, False]
            assert not call.done()
            call.cancel()
            await until(lambda: opened[0].closed)
            await ask(channel)
            assert len(opened) == 2
        assert opened[1].closed


async def test_half_a_renewal_changes_nothing(tmp_path: Path) -> None:
    """Between the new certificate and its key the old pair is in use; who listens
    is told why, once."""
    ours = Authority(tmp_path, "ours")
    tls = put(ours.identity("first"), tmp_path)
    second = ours.identity("second")
    told: list[TlsError | None] = []
    async with (
        secure_server(ours.identity("server"), ours.ca) as server,
        RenewedChannel(tls, opens(server, []), told.append) as channel,
    ):
        await ask(channel)
        shutil.copy(second.cert, tmp_path / "client.pem")
        await ask(channel)
        await ask(channel)
        assert len(told) == 1
        assert str(tmp_path / "client.pem") in str(told[0])
        shutil.copy(second.key, tmp_path / "client.key")
        await ask(channel)
        assert told[1:] == [None]


class Watched:
    """A channel of gRPC that says whether it is closed."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    async def close(self, grace: float | None = None) -> None:
        """Close it."""
        self.closed = True
        await self._channel.close(grace)


def opens(server: SecureServer, opened: list[Watched]) -> Callable[[grpc.ChannelCredentials], Any]:
    """Opens channels to gRPC, and notes them."""

    def open_channel(credentials: grpc.ChannelCredentials) -> Any:
        opened.append(Watched(grpc.aio.secure_channel(server.grpc, credentials)))
        return opened[-1]

    return open_channel


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what other tasks of the loop will do."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0)
