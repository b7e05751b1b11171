"""The watch's shell over a real gRPC connection, with time held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_node.upstream.reports import REOPEN_SECONDS_MAX
from tests.unit.node.samples import snapshot
from tests.unit.node.upstream_client import Client, Script, running_client, transfer, until
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2


@pytest.fixture
async def client(tmp_path: Path, scripts: list[Script]) -> AsyncIterator[Client]:
    """A client whose server plays `scripts`."""
    async with running_client(tmp_path, scripts) as made:
        yield made


FIRST = snapshot(1, a="one")
BUSY = VoxplaneError(reason_pb2.ERROR_REASON_SHUTTING_DOWN, "busy", retry_after=7.0)


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")]]])
async def test_a_transfer_is_applied_and_reported(client: Client) -> None:
    """What the stream brings is applied, written, acknowledged and reported, in one report or two."""
    assert await asyncio.wait_for(client.got.get(), 10) == FIRST
    names: set[str] = set()
    while True:
        report = await asyncio.wait_for(client.server.reports.get(), 10)
        assert report.stream_id == "s1"
        names |= {status.name for status in report.statuses}
        if report.nonce == "1":
            break
    assert names == set(FIRST.bundles)


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1"), BUSY], [transfer(FIRST, "s2")]]])
async def test_the_server_sets_the_wait(client: Client) -> None:
    """After an error with RetryInfo the node waits so long, resumes, and tells everything again."""
    await asyncio.wait_for(client.got.get(), 10)
    client.server.may_fail.set()
    request = await asyncio.wait_for(client.after_back_off(), 10)
    assert client.clock.monotonic() >= 7.0
    assert request.start_revisions["acme"].number == 1
    while True:
        report = await asyncio.wait_for(client.server.reports.get(), 10)
        if report.stream_id == "s2" and report.statuses:
            break


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")], [transfer(FIRST, "s2")]]])
async def test_a_silent_stream_is_opened_again(client: Client) -> None:
    """A stream that brings neither changes nor heartbeats is given up."""
    await asyncio.wait_for(client.got.get(), 10)
    await client.clock.advance(59.0)
    assert len(client.server.asked) == 1
    await client.clock.advance(1.0)
    await asyncio.wait_for(client.after_back_off(), 10)
    stale = client.upstream.protocol.stale(client.clock.monotonic())
    assert stale is None or "nothing was heard" in stale.reason


@pytest.mark.parametrize("scripts", [[[transfer(FIRST, "s1")]]])
async def test_reports_that_break_are_told_again(client: Client) -> None:
    """When the report stream breaks alone it is opened again, with all statuses."""
    client.server.report_faults = 1
    await asyncio.wait_for(client.got.get(), 10)
    await until(lambda: client.clock.due is not None and client.clock.due <= REOPEN_SECONDS_MAX)
    await client.clock.advance(REOPEN_SECONDS_MAX)
    report = await asyncio.wait_for(client.server.reports.get(), 10)
    assert {status.name for status in report.statuses} == set(FIRST.bundles)
