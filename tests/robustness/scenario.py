"""One run: a server, writers, watchers and nodes, and what is done to them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.settings import Settings
from tests.robustness.answers import at_of
from tests.robustness.checker import check
from tests.robustness.crowd import Crowd, Daemon
from tests.robustness.faults.clock import ClockSteps
from tests.robustness.faults.disk import DiskFaults
from tests.robustness.faults.proxy import FaultProxy, fault_proxy
from tests.robustness.faults.shims import preload, why_not
from tests.robustness.findings import Findings, Property
from tests.robustness.history import Converged, Fault, Fetched, Final, Record, Recorder, load, merge, save
from tests.robustness.site import GRPC, Site
from tests.robustness.tap import Tap
from tests.robustness.watcher import Spec, connect
from tests.robustness.writers import Load, Writer
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc
from voxplane.v1 import node_pb2
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.v1 import node_service_pb2_grpc as nodes_grpc

TAP_SECONDS = 0.1
SETTLE_SECONDS_MAX = 60.0
SETTLE_POLL_SECONDS = 0.5
TRIM_SECONDS_MAX = 60.0
CONVERGE_SECONDS_MAX = 20
CONVERGE_POLL_SECONDS = 1
PICKY = "picky"
SETTINGS: dict[str, object] = {
    "drain_seconds": 1,
    "watch_heartbeat_seconds": 0.5,
    "watch_age_seconds_max": 20,
    "watch_stall_seconds": 1,
    "watch_pending_bytes_max": 65_536,
}
"""Small, so that a short run meets them."""


def near_watchers(tenants: Sequence[str]) -> list[Spec]:
    """Watchers that reach the server directly: of each kind one."""
    first, last = tenants[0], tenants[-1]
    return [
        Spec("all", "-"),
        Spec("all-node", "-", reports="stream"),
        Spec("one", first, reports="unary"),
        Spec("named", first, ["a0", "a1"], reports="stream"),
        Spec("labelled", last, labels={"tier": "gold"}),
        Spec("lazy", first, lazy_seconds=4.0),
    ]


def far_watchers(tenants: Sequence[str]) -> list[Spec]:
    """Watchers behind the proxy."""
    return [
        Spec("far-all", "-", reports="stream"),
        Spec(PICKY, tenants[-1], reports="stream", picky=True),
        Spec("far-one", tenants[0], reports="unary"),
        Spec("far-named", tenants[-1], ["a0", "a2"]),
        Spec("far-labelled", tenants[0], labels={"tier": "tin"}, reports="stream"),
    ]


@dataclass(slots=True)
class Options:
    """How large a run is. `snapshot_commits` and `part_bytes` are for the
    server, and with `mistakes` it makes some, see served.py; `shims` puts
    faults of the disk and the clock under it. Clients are waited for so long
    as `settle_seconds_max` when all is left alone. Watchers call over
    `transport`."""

    seed: int
    tenants: list[str] = field(default_factory=lambda: ["red", "green", "blue"])
    agents: int = 6
    writers: int = 6
    pause_seconds: float = 0.1
    padding: int = 200
    crowd: int = 0
    daemons: int = 0
    snapshot_commits: int = 0
    part_bytes: int = 0
    history_entries_max: int = 0
    shims: bool = False
    mistakes: bool = False
    settle_seconds_max: float = SETTLE_SECONDS_MAX
    transport: str = GRPC


class Scenario:
    """What an action is given: all that runs, and the record."""

    def __init__(self, folder: Path, options: Options, site: Site, recorder: Recorder) -> None:
        self.folder = folder
        self.options = options
        self.site = site
        self.recorder = recorder
        self.random = random.Random(options.seed)
        self.began = time.monotonic()
        self.proxy: FaultProxy | None = None
        self.disk: DiskFaults | None = None
        self.clock: ClockSteps | None = None
        self.crowds: dict[str, Crowd] = {}
        self.daemons: list[Daemon] = []
        self.tap = Tap(site.database)
        self.tap_lock = asyncio.Lock()
        """Held while the database is not what the server has written."""
        self.server_lock = asyncio.Lock()
        """Held by who ends the server."""
        self.problems: list[str] = []
        """What went wrong and is not in the history."""

    @asynccontextmanager
    async def fault(self, name: str, target: str = "") -> AsyncGenerator[None]:
        """Marks around what is done to the system."""
        self.recorder.put(Fault(self.recorder.now(), name, "begin", target))
        try:
            yield
        finally:
            self.recorder.put(Fault(self.recorder.now(), name, "end", target))

    async def pause(self, shortest: float, longest: float) -> None:
        """Let the system run for a while."""
        await asyncio.sleep(self.random.uniform(shortest, longest))

    async def read_log(self) -> None:
        """Take in what was committed since the last time."""
        async with self.tap_lock:
            if self.site.database.exists():
                with suppress(sqlite3.Error, TypeError):
                    await asyncio.to_thread(self.tap.read, time.monotonic(), self.site.started)

    async def follow_log(self) -> None:
        """Read the log again and again."""
        while True:
            await self.read_log()
            await asyncio.sleep(TAP_SECONDS)

    async def all_in_step(self, name: str) -> None:
        """Wait until all watchers of a crowd have had something of the server
        that runs now. Raises TimeoutError."""
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            since = self.site.started
            while any(final.in_step < since for final in await self.crowds[name].finals()):  # noqa: ASYNC110
                await asyncio.sleep(SETTLE_POLL_SECONDS)

    async def history_trimmed(self) -> None:
        """Wait until no tenant's log goes back to what is its newest revision
        now. Raises TimeoutError."""
        await self.read_log()
        before = self.tap.heads()
        async with asyncio.timeout(TRIM_SECONDS_MAX):
            while any(self.tap.floors().get(tenant, 0) <= head for tenant, head in before.items()):  # noqa: ASYNC110
                await asyncio.sleep(TAP_SECONDS)

    async def settle(self) -> list[Final]:
        """Wait until all clients have the newest state, or for too long;
        returns what they have."""
        deadline = time.monotonic() + self.options.settle_seconds_max
        while True:
            await self.read_log()
            finals = [final for crowd in self.crowds.values() for final in await crowd.finals()]
            finals += [daemon.final() for daemon in self.daemons]
            found = check([*self.tap.records(), *finals])
            if Property.CONVERGED not in found.violated or time.monotonic() > deadline:
                return finals
            await asyncio.sleep(SETTLE_POLL_SECONDS)

    async def ask_the_server(self) -> list[Record]:
        """What the server says of itself at the end."""
        records: list[Record] = []
        async with connect(self.site.address) as channel, connect(self.site.watch_address) as watched:
            for tenant in self.options.tenants:
                answer = await sync_grpc.ConfigSyncServiceStub(watched).FetchConfig(
                    sync_pb2.FetchConfigRequest(tenant_id=tenant), wait_for_ready=True, timeout=30
                )
                transfer = answer.transfer
                records.append(
                    Fetched(
                        self.recorder.now(),
                        tenant,
                        at_of(transfer.revision),
                        transfer.synced.digest,
                        {bundle.name: bundle.etag for bundle in transfer.bundles},
                    )
                )
                lagging = await self._lagging(nodes_grpc.NodeServiceStub(channel), tenant)
                records.append(Converged(self.recorder.now(), tenant, not lagging, lagging))
        return records

    async def _lagging(self, nodes: nodes_grpc.NodeServiceAsyncStub, tenant: str) -> list[str]:
        """The nodes that do not come to run the newest revision in time. One
        that is picky may never, and is not waited for."""
        deadline = time.monotonic() + min(CONVERGE_SECONDS_MAX, self.options.settle_seconds_max)
        request = nodes_pb2.WaitForConvergenceRequest(tenant_id=tenant)
        request.timeout.FromSeconds(CONVERGE_POLL_SECONDS)
        while True:
            waited = await nodes.WaitForConvergence(request, timeout=2 * CONVERGE_SECONDS_MAX)
            lagging = [
                node.node_id
                for node in waited.nodes
                if node.state != node_pb2.CONVERGENCE_STATE_CONVERGED and node.node_id != PICKY
            ]
            if not lagging or time.monotonic() > deadline:
                return lagging


@asynccontextmanager
async def scenario(folder: Path, options: Options) -> AsyncGenerator[Scenario]:
    """Everything runs for the block; at its end all is left alone, asked, and
    ended, and the history is in `folder`."""
    settings = SETTINGS | {"history_entries_max": options.history_entries_max}
    settings = {name: value for name, value in settings.items() if name in Settings.model_fields}
    site = Site(folder, settings, transport=options.transport)
    async with AsyncExitStack() as stack:
        out = stack.enter_context((folder / "runner.jsonl").open("w"))
        run = Scenario(folder, options, site, Recorder(out))
        _put_faults_under(run)
        site.environment["ROBUSTNESS_SNAPSHOT_COMMITS"] = str(options.snapshot_commits)
        site.environment["ROBUSTNESS_MISTAKES"] = "1" if options.mistakes else ""
        site.environment["ROBUSTNESS_PART_BYTES"] = str(options.part_bytes)
        stack.push_async_callback(_end_server, run)
        await site.start()
        run.proxy = await stack.enter_async_context(fault_proxy(site.watch_address))
        await _start_clients(run, stack)
        tapping = asyncio.create_task(run.follow_log())
        stack.callback(tapping.cancel)
        finished = asyncio.Event()
        load = Load(
            options.tenants,
            [f"a{number}" for number in range(options.agents)],
            options.pause_seconds,
            options.padding,
        )
        writers = [
            Writer(f"w{number}", site.address, load, run.recorder, run.random.randrange(2**32))
            for number in range(options.writers)
        ]
        writing = [asyncio.create_task(writer.run(finished)) for writer in writers]
        try:
            for name in run.crowds:
                await run.all_in_step(name)
            yield run
        finally:
            finished.set()
            await asyncio.gather(*writing)
        finals = await run.settle()
        for record in [*finals, *await run.ask_the_server()]:
            run.recorder.put(record)
        await _end_server(run)
        await run.read_log()


def _put_faults_under(run: Scenario) -> None:
    if not run.options.shims or why_not():
        return
    run.disk = DiskFaults(run.site.database.parent, run.folder / "disk.control")
    run.clock = ClockSteps(run.folder / "clock.control")
    run.site.environment.update(preload(run.disk.environment, run.clock.environment))


async def _start_clients(run: Scenario, stack: AsyncExitStack) -> None:
    assert run.proxy is not None
    tenants = run.options.tenants
    crowds = {
        "near": (run.site.watch_address, near_watchers(tenants)),
        "far": (run.proxy.address, far_watchers(tenants)),
    }
    if run.options.crowd:
        many = [Spec(f"many-{number}", tenants[0]) for number in range(run.options.crowd)]
        crowds["many"] = (run.site.watch_address, many)
    for name, (address, specs) in crowds.items():
        crowd = run.crowds[name] = Crowd(run.folder, name)
        stack.push_async_callback(crowd.close)
        await crowd.start(address, run.random.randrange(2**32), specs)
    for number in range(run.options.daemons):
        daemon = Daemon(run.folder, f"daemon-{number}")
        run.daemons.append(daemon)
        stack.push_async_callback(daemon.close)
        await daemon.start(run.site.address)


async def _end_server(run: Scenario) -> None:
    if run.site.pid:
        code = await run.site.terminate()
        if code:
            run.problems.append(f"the server ended with {code} at the end of the run")


def judge(run: Scenario) -> tuple[list[Record], Findings]:
    """The whole history of a run that has ended, saved in its folder, and what
    the checker finds."""
    files = [run.folder / "runner.jsonl", *(crowd.history for crowd in run.crowds.values())]
    history = merge([*(load(file) for file in files), run.tap.records()])
    save(history, run.folder / "history.jsonl")
    if not (run.disk or run.clock) and "Traceback" in run.site.log.read_text(errors="replace"):
        run.problems.append(f"there is a traceback in {run.site.log}")
    return history, check(history)
