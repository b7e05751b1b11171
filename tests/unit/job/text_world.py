"""A session by text for tests, with a node that keeps what it is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agent_node.job.outbox import Outbox
from agent_node.job.staging import Builder
from agent_node.job.text_session import TextSession
from agent_node.providers import new_context
from tests.unit.job.job_world import COMMIT_TIME, caller, delivery
from tests.virtual_clock import VirtualClock
from voxplane.node.v1.relay_service_pb2 import CallerContext, ChatResponse
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.config_sync_service_pb2 import BundleStatus
from voxplane.v1.session_service_pb2 import SessionCommandResult

SECONDS_MAX = 20.0


@dataclass
class Link:
    """A node that keeps what it is told."""

    reports: list[BundleStatus] = field(default_factory=list[BundleStatus])
    records: list[session_pb2.Session] = field(default_factory=list[session_pb2.Session])
    turns: list[session_pb2.SessionTurn] = field(default_factory=list[session_pb2.SessionTurn])
    answers: list[SessionCommandResult] = field(default_factory=list[SessionCommandResult])
    memory: list[bytes] = field(default_factory=list[bytes])
    followed: list[str] = field(default_factory=list[str])
    pss_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter[str])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def report(self, status: BundleStatus) -> None:
        """See NodeLink."""
        self.reports.append(status)
        self.news.set()

    def tell(self, session: session_pb2.Session, *turns: session_pb2.SessionTurn) -> None:
        """See NodeLink."""
        self.records.append(session)
        self.turns += turns
        self.news.set()

    def answer(self, result: SessionCommandResult) -> None:
        """See NodeLink."""
        self.answers.append(result)
        self.news.set()

    def remember(self, turns: int, *items: bytes) -> None:
        """See NodeLink."""
        self.memory += items
        self.news.set()

    def follow(self, agent_id: str) -> None:
        """See NodeLink."""
        self.followed.append(agent_id)
        self.news.set()

    def count(self, *, swap: str = "", error: str = "", pss_bytes: int = 0) -> None:
        """See NodeLink."""
        self.pss_bytes = pss_bytes or self.pss_bytes
        self.news.set()
        if swap or error:
            self.counts[swap or error] += 1


@dataclass
class Running:
    """A session, and all that was said and reported."""

    session: TextSession
    builder: Builder
    clock: VirtualClock
    gate: asyncio.Semaphore
    link: Link
    chat: list[ChatResponse] = field(default_factory=list[ChatResponse])

    @property
    def reports(self) -> list[BundleStatus]:
        """What became of bundles."""
        return self.link.reports

    @property
    def news(self) -> asyncio.Event:
        """Set with each thing that is told."""
        return self.link.news

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for news that make it hold."""
        async with asyncio.timeout(SECONDS_MAX):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def change(self, revision: int, config: AgentConfig) -> BundleStatus:
        """Deliver a config and wait for its last word."""
        final = (sync_pb2.CONFIG_PHASE_APPLIED, sync_pb2.CONFIG_PHASE_FAILED)
        self.session.deliver(delivery(revision, config))
        await self.until(lambda: any(r.revision == revision and r.phase in final for r in self.reports))
        return self.reports[-1]

    async def say(self, text: str) -> ChatResponse:
        """One turn; returns its end."""
        before = len(self.of("turn"))
        await asyncio.wait_for(self.session.take(text), SECONDS_MAX)
        await self.until(lambda: len(self.of("turn")) > before)
        return self.of("turn")[-1]

    def of(self, event: str) -> list[ChatResponse]:
        """All that was said of one kind."""
        return [each for each in self.chat if each.WhichOneof("event") == event]

    def history(self) -> list[tuple[str, str]]:
        """The messages of the session so far."""
        messages = self.session.session.history.messages()
        return [(m.role, m.text_content or "") for m in messages if m.role in ("user", "assistant")]


@asynccontextmanager
async def running(config: AgentConfig, who: CallerContext | None = None) -> AsyncIterator[Running]:
    """A session that has started with the config at revision 1. Models whose
    name ends with -slow wait at the gate before each piece of the reply."""
    who = who or caller()
    clock, gate = VirtualClock(COMMIT_TIME), asyncio.Semaphore(0)

    async def pause() -> None:
        await gate.acquire()

    builder = Builder(who, replace(new_context(), offline_pause=pause))
    outbox: Outbox[ChatResponse] = Outbox()
    link = Link()
    session = TextSession(who, builder, clock, outbox=outbox, link=link, node_id="n1")
    made = Running(session, builder, clock, gate, link)
    news = link.news

    async def collect() -> None:
        async for message in outbox:
            made.chat.append(message)
            news.set()

    collecting = asyncio.create_task(collect())
    try:
        session.deliver(delivery(1, config, tenant=who.tenant_id))
        await session.start()
        yield made
    finally:
        await session.aclose()
        outbox.close()
        await collecting
