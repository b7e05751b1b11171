"""A server under faults, with writers and watchers in this process, and the
record of all that they do and see."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.robustness.answers import at_of
from tests.robustness.checker import check
from tests.robustness.faults.serving import Serving
from tests.robustness.findings import Findings
from tests.robustness.history import Fault, Fetched, Operation, Received, Record, Recorder, load, merge
from tests.robustness.tap import Tap
from tests.robustness.watcher import Spec, Watcher, connect
from tests.robustness.writers import Load, Writer
from voxplane.digest import bundles_digest
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

DATABASE = Path("control_plane") / "voxplane.db"
SETTLE_SECONDS_MAX = 30.0
SETTLE_POLL_SECONDS = 0.05
FETCH_SECONDS_MAX = 10.0
FOLLOW_SECONDS = 0.05
VIOLATIONS_SHOWN_MAX = 3
HEARTBEAT_SECONDS = 0.3
ENVIRONMENT = {
    "VOXPLANE_WATCH_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
    "VOXPLANE_DRAIN_SECONDS": "1",
}
TENANTS = ("red", "blue")


class Scene:
    """`database` is where this process sees the server's file."""

    def __init__(self, server: Serving, folder: Path, seed: int, database: Path | None = None) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.tap = Tap(database or server.folder / DATABASE)
        self._file = folder / f"scene-{seed}.jsonl"
        self._out = self._file.open("w")
        self.recorder = Recorder(self._out)
        self.watchers: list[Watcher] = []
        self._began = time.monotonic()
        self._finished = asyncio.Event()
        self._writing: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []

    def watch(self, specs: Sequence[Spec], address: str = "") -> None:
        """Begin watchers; what they do ends with the scene."""
        for spec in specs:
            watcher = Watcher(
                spec, address or self.server.watch_address, self.recorder, self.random.randrange(2**32)
            )
            self.watchers.append(watcher)
            self._watching.append(asyncio.create_task(watcher.run()))

    def write(self, count: int, address: str = "", pause_seconds: float = 0.05) -> None:
        """Begin writers, each of which makes one call after the other."""
        load = Load(list(TENANTS), ["a0", "a1", "a2"], pause_seconds)
        for _ in range(count):
            name = f"w{len(self._writing)}"
            seed = self.random.randrange(2**32)
            writer = Writer(name, address or self.server.address, load, self.recorder, seed)
            self._writing.append(asyncio.create_task(writer.run(self._finished)))

    @asynccontextmanager
    async def fault(self, name: str) -> AsyncGenerator[float]:
        """Marks around what is done to the system; gives the time."""
        began = self.recorder.now()
        self.recorder.put(Fault(began, name, "begin"))
        try:
            yield began
        finally:
            self.recorder.put(Fault(self.recorder.now(), name, "end"))

    def read_log(self) -> None:
        """Take in what was committed since the last time, while the file is
        there."""
        with suppress(sqlite3.Error, TypeError):
            self.tap.read(time.monotonic(), self._began)

    async def follow_log(self) -> None:
        """Read the log again and again, as a server trims what it no longer
        needs; until cancelled."""
        while True:
            self.read_log()
            await asyncio.sleep(FOLLOW_SECONDS)

    async def began_anew(self) -> None:
        """Start the server again."""
        # What was not read by now is taken for as old as the scene.
        if self.tap.epoch:
            self._began = time.monotonic()
        await self.server.begin()

    def records(self) -> list[Record]:
        """What clients have done and seen so far."""
        return load(self._file)

    def operations(self, since: float = 0.0) -> list[Operation]:
        """The calls that began since then and are over."""
        return [one for one in self.records() if isinstance(one, Operation) and one.start >= since]

    def received(self, since: float, until: float, watcher: str) -> list[Received]:
        """What a watcher's streams have brought in a time."""
        streams = (f"{watcher}.",)
        return [
            one
            for one in self.records()
            if isinstance(one, Received) and since <= one.time < until and one.stream.startswith(streams)
        ]

    async def finish(self) -> Findings:
        """What the checker finds, after `settle`. The server goes on."""
        await self.settle()
        return self.judge()

    async def settle(self) -> None:
        """Have the writers stop and the watchers come level, and end them."""
        self._finished.set()
        await asyncio.gather(*self._writing)
        fetched = await self._settled()
        for record in [*fetched, *(watcher.final() for watcher in self.watchers)]:
            self.recorder.put(record)
        await self.close()

    def judge(self) -> Findings:
        """What the checker finds in all that was recorded."""
        self.read_log()
        return check(merge([self.records(), self.tap.records()]))

    async def close(self) -> None:
        """End the clients."""
        tasks = [*self._writing, *self._watching]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _settled(self) -> list[Fetched]:
        """What the server has when all watchers have it, or it took too long."""
        deadline = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            fetched = [await self._fetch(tenant) for tenant in TENANTS]
            # A tenant that nobody wrote to is none.
            newest = {one.tenant: one for one in fetched if one.at.number}
            if self._level(newest) or time.monotonic() > deadline:
                return fetched
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    def _level(self, newest: dict[str, Fetched]) -> bool:
        """Whether all watchers have the newest revisions, of which some change
        nothing, or change back what one before has changed: those are told by
        heartbeats."""
        for watcher in self.watchers:
            final = watcher.final()
            wanted = [final.tenant] if final.tenant != "-" else list(newest)
            for tenant in wanted:
                held, wants = final.held.get(tenant), newest.get(tenant)
                if held is None or wants is None or held.at.number < wants.at.number:
                    return False
                if bundles_digest(held.etags | held.withheld) != wants.digest:
                    return False
        return True

    async def _fetch(self, tenant: str) -> Fetched:
        request = sync_pb2.FetchConfigRequest(tenant_id=tenant)
        async with connect(self.server.watch_address) as channel:
            answer = await sync_grpc.ConfigSyncServiceStub(channel).FetchConfig(
                request, wait_for_ready=True, timeout=FETCH_SECONDS_MAX
            )
        transfer = answer.transfer
        etags = {bundle.name: bundle.etag for bundle in transfer.bundles}
        return Fetched(self.recorder.now(), tenant, at_of(transfer.revision), transfer.synced.digest, etags)


def require_nothing_found(findings: Findings) -> None:
    """Raises AssertionError with the first violations."""
    shown = "\n".join(map(str, findings.violations[:VIOLATIONS_SHOWN_MAX]))
    assert not findings.violations, f"{len(findings.violations)} violations\n{shown}"


@asynccontextmanager
async def scene(
    server: Serving, folder: Path, seed: int, database: Path | None = None
) -> AsyncGenerator[Scene]:
    """A scene whose clients end with the block."""
    made = Scene(server, folder, seed, database)
    try:
        yield made
    finally:
        await made.close()
