"""A plain client of WatchConfig, which comes back with what it holds.

It believes what it is sent, and records it: to judge is the checker's part. A
watcher with a node id reports, by the call or by the stream of reports. One
that is picky refuses some bundles and keeps what it had before in their place.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import grpc

from tests.robustness.answers import reason, received, retry_seconds
from tests.robustness.history import (
    At,
    Ended,
    Final,
    Held,
    Received,
    Recorder,
    Reported,
    Subscribed,
    Transfer,
)
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

BACK_OFF_SECONDS_MIN = 0.05
BACK_OFF_SECONDS_MAX = 1.0
RETRY_SECONDS_MAX = 3.0
SILENT_SECONDS_MIN = 3.0
SILENT_INTERVALS = 3.0
REPORT_SECONDS_MAX = 2.0
REPORT_AGAIN_SECONDS = 0.2
CONTENTS_MAX = 150
FRESH_SHARE = 0.08
"""How often a watcher that was in step comes back with nothing, as another one."""
REPORT_LOST_SHARE = 0.05
"""How often a report is counted and not sent."""
LAZY_SHARE = 0.03
PICKY_DIGITS = tuple("0123")
"""A picky node refuses the bundles whose etag begins with one of these."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a watcher watches and how it behaves. Now and then it does not read
    for up to `lazy_seconds`."""

    name: str
    tenant: str
    agent_ids: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    reports: Literal["", "unary", "stream"] = ""
    picky: bool = False
    lazy_seconds: float = 0.0


@dataclass(slots=True)
class Holding:
    """What a client has, by tenant. `kept` are the etags that it has kept in
    place of those that it refused or that were withheld; "" is none."""

    held: dict[str, Held] = field(default_factory=dict[str, Held])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    contents: dict[str, None] = field(default_factory=dict[str, None])
    needs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    open: dict[str, list[Transfer]] = field(default_factory=dict[str, list[Transfer]])

    def request(self, spec: Spec) -> sync_pb2.WatchConfigRequest:
        """The next stream's request; what was unfinished is dropped."""
        self.open.clear()
        request = sync_pb2.WatchConfigRequest(
            tenant_id=spec.tenant, agent_ids=spec.agent_ids, agent_labels=spec.labels
        )
        if spec.reports:
            request.node.node_id = spec.name
        for tenant, held in self.held.items():
            start = request.start_revisions[tenant]
            start.number, start.epoch = held.at.number, held.at.epoch
            etags = {name: self.kept.get(name, etag) for name, etag in held.etags.items()}
            etags |= {name: self.kept.get(name, "") for name in held.withheld}
            etags = {name: etag for name, etag in etags.items() if etag}
            self.held[tenant] = Held(held.at, etags)
            request.known.update(etags)
        self.kept.clear()
        request.known_contents.extend(self.contents)
        return request

    def take(self, message: Received) -> list[str]:
        """Take a message, and return the names of bundles that are new with a
        finished transfer."""
        for tenant, at in (message.beat or {}).items():
            if tenant in self.held:
                self.held[tenant] = replace(self.held[tenant], at=at)
        part = message.transfer
        if part is None:
            return []
        if part.start is not None:
            self.open[part.tenant] = []
        parts = self.open.setdefault(part.tenant, [])
        parts.append(part)
        if part.synced is None:
            return []
        del self.open[part.tenant]
        return self._finish(part.tenant, part.at, parts)

    def _finish(self, tenant: str, at: At, parts: list[Transfer]) -> list[str]:
        before = self.held.get(tenant, Held(at, {}))
        full = parts[0].start is not None and parts[0].start.intent == "FULL"
        etags = {} if full else dict(before.etags)
        withheld = {} if full else dict(before.withheld)
        fresh: list[str] = []
        for part in parts:
            for name in part.removed:
                etags.pop(name, None)
                withheld.pop(name, None)
                self.kept.pop(name, None)
            for name, etag in part.withheld.items():
                self.kept[name] = before.etags.get(name, "")
                withheld[name] = etag
            for bundle in part.bundles:
                self.kept.setdefault(bundle.name, before.etags.get(bundle.name, ""))
                etags[bundle.name] = bundle.etag
                withheld.pop(bundle.name, None)
                self.needs[bundle.etag] = bundle.contents
                fresh.append(bundle.name)
            self.contents.update(dict.fromkeys(part.contents))
        self.held[tenant] = Held(at, etags, withheld)
        self._forget_contents()
        return fresh

    def settle(self, names: list[str], refused: set[str]) -> None:
        """The new bundles are in use, but for those that are refused."""
        for name in names:
            if name not in refused:
                self.kept.pop(name, None)

    def _forget_contents(self) -> None:
        if len(self.contents) <= CONTENTS_MAX:
            return
        etags = {etag for held in self.held.values() for etag in held.etags.values()}
        etags.update(self.kept.values())
        self.needs = {etag: needs for etag, needs in self.needs.items() if etag in etags}
        self.contents = {content: None for needs in self.needs.values() for content in needs}


class Watcher:
    """Holds a stream until it is cancelled. `final` tells what it has."""

    def __init__(self, spec: Spec, address: str, recorder: Recorder, seed: int) -> None:
        self._spec = spec
        self._address = address
        self._recorder = recorder
        self._random = random.Random(seed)
        self._holding = Holding()
        self._lives = 1
        self._streams = 0
        self._failures = 0
        self._sequence = 0
        self._in_step = 0.0
        self._owes = False
        """A report was lost, and the server cannot know before the next."""

    @property
    def name(self) -> str:
        """The watcher, and which of its lives it is in."""
        return f"{self._spec.name}.{self._lives}"

    def final(self) -> Final:
        """What it has now."""
        spec, now = self._spec, self._recorder.now()
        held = dict(self._holding.held)
        return Final(now, self.name, spec.tenant, spec.agent_ids, spec.labels, held, self._in_step)

    async def run(self) -> None:
        """Watch, again and again."""
        while True:
            if not self._failures and self._random.random() < FRESH_SHARE:
                self._lives += 1
                self._holding = Holding()
            wait = await self._stream()
            longest = min(BACK_OFF_SECONDS_MAX, BACK_OFF_SECONDS_MIN * 2**self._failures)
            await asyncio.sleep(max(min(wait, RETRY_SECONDS_MAX), self._random.uniform(0, longest)))

    async def _stream(self) -> float:
        """One stream, and how long the server asks to wait after it."""
        self._streams += 1
        self._sequence = 0
        self._in_step, self._owes = 0.0, False
        stream = f"{self.name}/{self._streams}"
        request = self._holding.request(self._spec)
        self._recorder.put(self._subscribed(stream, request))
        async with connect(self._address) as channel:
            call = sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(request)
            reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest] = asyncio.Queue()
            reporting = asyncio.create_task(self._report(channel, reports))
            code, why, wait = "OK", "", 0.0
            try:
                why = await self._read(call, stream, reports)
                code = "CLIENT" if why else code
            except grpc.aio.AioRpcError as error:
                code, why, wait = error.code().name, reason(error), retry_seconds(error)
                if code in ("OUT_OF_RANGE", "INVALID_ARGUMENT"):
                    self._lives += 1
                    self._holding = Holding()
            except asyncio.CancelledError:
                code, why = "CLIENT", "it was told to stop"
                raise
            finally:
                call.cancel()
                reporting.cancel()
                was_in_step, self._in_step = self._in_step > 0, 0.0
                self._recorder.put(Ended(self._recorder.now(), stream, code, why))
        self._failures = 0 if was_in_step else min(self._failures + 1, 10)
        return wait

    async def _read(
        self,
        call: grpc.aio.UnaryStreamCall[sync_pb2.WatchConfigRequest, sync_pb2.WatchConfigResponse],
        stream: str,
        reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest],
    ) -> str:
        """Take messages to the end of the stream; or until there was nothing
        for too long, and then says so."""
        silent = SILENT_SECONDS_MIN
        while True:
            if self._spec.lazy_seconds and self._random.random() < LAZY_SHARE:
                await asyncio.sleep(self._random.uniform(0, self._spec.lazy_seconds))
            try:
                message = await asyncio.wait_for(call.read(), silent)
            except TimeoutError:
                return "it was silent"
            if not isinstance(message, sync_pb2.WatchConfigResponse):
                return ""
            record = received(self._recorder.now(), stream, message)
            self._recorder.put(record)
            fresh = self._holding.take(record)
            if message.HasField("heartbeat"):
                interval = message.heartbeat.interval.ToNanoseconds() / 1e9
                silent = max(SILENT_SECONDS_MIN, SILENT_INTERVALS * interval)
            if message.transfer.HasField("synced"):
                self._in_step = self._in_step or record.time
            if self._spec.reports:
                self._answer(record, fresh, reports)

    def _answer(
        self,
        record: Received,
        fresh: list[str],
        reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest],
    ) -> None:
        """Report what has become of a message, where that is due."""
        everything = record.missing_sequence is not None
        transfer = record.transfer
        if not everything and not self._owes and (transfer is None or transfer.synced is None):
            return
        names = [name for held in self._holding.held.values() for name in held.etags]
        report = sync_pb2.ReportConfigStatusRequest(stream_id=record.stream_id, nonce=record.nonce)
        refused: set[str] = set()
        for name in names if everything or self._sequence == 0 else fresh:
            held = next(held for held in self._holding.held.values() if name in held.etags)
            etag = held.etags[name]
            bad = self._spec.picky and etag.startswith(PICKY_DIGITS)
            phase = sync_pb2.CONFIG_PHASE_FAILED if bad else sync_pb2.CONFIG_PHASE_APPLIED
            status = report.statuses.add(name=name, etag=etag, revision=held.at.number, phase=phase)
            if bad:
                status.error.message = "it is refused"
                refused.add(name)
        self._holding.settle(fresh, refused)
        self._sequence += 1
        report.sequence = self._sequence
        lost = not everything and self._sequence > 1 and self._random.random() < REPORT_LOST_SHARE
        self._owes = lost
        self._recorder.put(self._reported(record.stream, report))
        if not lost:
            reports.put_nowait(report)

    async def _report(
        self, channel: grpc.aio.Channel, reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest]
    ) -> None:
        """Send the reports in order; one that fails is lost."""
        stub = sync_grpc.ConfigSyncServiceStub(channel)
        while True:
            try:
                if self._spec.reports == "stream":
                    await stub.StreamConfigStatus(_each(reports))
                else:
                    await stub.ReportConfigStatus(await reports.get(), timeout=REPORT_SECONDS_MAX)
            except grpc.aio.AioRpcError:
                self._owes = True
                await asyncio.sleep(REPORT_AGAIN_SECONDS)

    def _subscribed(self, stream: str, request: sync_pb2.WatchConfigRequest) -> Subscribed:
        return Subscribed(
            self._recorder.now(),
            self.name,
            stream,
            request.tenant_id,
            list(request.agent_ids),
            dict(request.agent_labels),
            request.node.node_id,
            {tenant: At(each.number, each.epoch) for tenant, each in request.start_revisions.items()},
            dict(request.known),
            list(request.known_contents),
        )

    def _reported(self, stream: str, report: sync_pb2.ReportConfigStatusRequest) -> Reported:
        statuses = {
            status.name: (
                status.etag,
                sync_pb2.ConfigPhase.Name(status.phase).removeprefix("CONFIG_PHASE_"),
            )
            for status in report.statuses
        }
        return Reported(
            self._recorder.now(), stream, report.stream_id, report.nonce, report.sequence, statuses
        )


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[grpc.aio.Channel]:
    """A connection of its own to the server."""
    async with grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 500),
        ],
    ) as channel:
        yield channel


async def _each(
    reports: asyncio.Queue[sync_pb2.ReportConfigStatusRequest],
) -> AsyncIterator[sync_pb2.StreamConfigStatusRequest]:
    while True:
        yield sync_pb2.StreamConfigStatusRequest(report=await reports.get())
