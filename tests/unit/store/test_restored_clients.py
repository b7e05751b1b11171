"""What a client meets when the store that it knows was restored."""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import pytest

from control_plane.store import SqliteStore
from control_plane.store.backup import back_up, forget_epoch, restore
from tests.unit.server.in_process import served
from tests.unit.services.agent_requests import TENANT, create, update
from tests.unit.watch.reference_client import ReferenceClient
from tests.unit.watch.watch_server import WATCH
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


async def level(channel: grpc.aio.Channel, client: ReferenceClient) -> sync_pb2.ConfigTransfer:
    """Let a client come level by a new stream; its first transfer, which is one
    message here."""
    encode = sync_pb2.WatchConfigRequest.SerializeToString
    call = channel.unary_stream(WATCH, request_serializer=encode)(client.request())
    try:
        return client.receive(await call.read()).transfer
    finally:
        call.cancel()


@pytest.mark.parametrize("by_command", [True, False])
async def test_a_restored_backup_makes_every_client_take_all(tmp_path: Path, by_command: bool) -> None:
    """A client that was ahead of the backup, one that was level with it, and
    one that comes after as many new commits are sent FULL, with contents that
    they have left out; after that they resume."""
    path, backup = tmp_path / "log.db", tmp_path / "backup.db"
    ahead, behind, unaware = (ReferenceClient(TENANT) for _ in range(3))
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        await running.agents.CreateAgent(create())
        await level(running.channel, behind)
        back_up(path, backup)
        for text in ("Two.", "Three."):
            await running.agents.UpdateAgentConfig(update(text))
        for client in (ahead, unaware):
            await level(running.channel, client)
    if by_command:
        restore(backup, path)
    else:
        shutil.copyfile(backup, path)
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        for client in (ahead, behind):
            transfer = await level(running.channel, client)
            assert (transfer.start.intent, transfer.revision.number) == (sync_pb2.TRANSFER_INTENT_FULL, 1)
            assert "epoch" in transfer.start.reason
        assert not transfer.contents
        for text in ("Other.", "Another."):
            await running.agents.UpdateAgentConfig(update(text))
        transfer = await level(running.channel, unaware)
        assert (transfer.start.intent, transfer.revision.number) == (sync_pb2.TRANSFER_INTENT_FULL, 3)
        assert (await level(running.channel, ahead)).start.intent == sync_pb2.TRANSFER_INTENT_DELTA
        assert ahead.bundles == unaware.bundles


async def test_a_volume_that_was_set_back_is_put_right_by_command(tmp_path: Path) -> None:
    """A client that is ahead of a store of its own epoch is refused, until the
    operator asks for a new epoch; then it is sent FULL."""
    path = tmp_path / "log.db"
    client = ReferenceClient(TENANT)
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        await running.agents.CreateAgent(create())
        await level(running.channel, client)
    client.revisions[TENANT].number = 9
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await level(running.channel, client)
        assert raised.value.code() == grpc.StatusCode.OUT_OF_RANGE
    forget_epoch(path)
    async with served(tmp_path, await SqliteStore.open(path)) as running:
        transfer = await level(running.channel, client)
        assert (transfer.start.intent, transfer.revision.number) == (sync_pb2.TRANSFER_INTENT_FULL, 1)
