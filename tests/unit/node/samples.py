"""Snapshots to test with."""

from __future__ import annotations

from collections.abc import Callable

from agent_node.relay import Admission, Board, RelayService, SessionDesk, TextPool
from agent_node.upstream import Snapshot
from voxplane.clock import Clock
from voxplane.digest import bundle_etag
from voxplane.names import AgentName, TenantId, agent_name
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import bundle_pb2, revision_pb2, session_service_pb2


def content(text: str) -> bundle_pb2.VersionContent:
    """A version content with a text."""
    made = bundle_pb2.VersionContent(content_hash=f"hash of {text}")
    made.config.prompt_config.instructions = text
    return made


def bundle(tenant: str, agent: str, text: str, revision: int) -> bundle_pb2.AgentBundle:
    """A bundle of one version."""
    made = bundle_pb2.AgentBundle(name=agent_name(tenant, agent), revision=revision)
    made.aliases["live"] = 1
    made.versions.add(number=1, content_hash=f"hash of {text}")
    made.etag = bundle_etag(made)
    return made


def snapshot(revision: int, tenant: str = "acme", since: int | None = None, **texts: str) -> Snapshot:
    """A tenant with a text per agent; its bundles changed at `since`."""
    bundles = [bundle(tenant, agent, text, since or revision) for agent, text in texts.items()]
    return Snapshot(
        TenantId(tenant),
        revision_pb2.Revision(number=revision, epoch="e1"),
        {AgentName(made.name): made for made in bundles},
        {f"hash of {text}": content(text) for text in texts.values()},
    )


class Ages(dict[TenantId, float]):
    """Ages of tenants' configs in seconds, as the test says; others are level."""

    def age(self, tenant_id: TenantId, now: float) -> float:
        """See agent_node.relay.admission.Ages."""
        return self.get(tenant_id, 0.0)


class Told:
    """What the control plane is told of sessions."""

    def __init__(self) -> None:
        self.reports: list[session_service_pb2.SessionReport] = []
        self.results: list[session_service_pb2.SessionCommandResult] = []
        self.gone: list[tuple[str, str]] = []

    def report(self, report: session_service_pb2.SessionReport) -> None:
        """See agent_node.relay.sessions.Teller."""
        self.reports.append(report)

    def result(self, result: session_service_pb2.SessionCommandResult) -> None:
        """See agent_node.relay.sessions.Teller."""
        self.results.append(result)

    def moved(self, tenant_id: str, session_id: str) -> None:
        """See agent_node.relay.sessions.Teller."""
        self.gone.append((tenant_id, session_id))


def relay_service(
    board: Board,
    pool: TextPool,
    clock: Clock,
    ages: Ages | None = None,
    desk: SessionDesk | None = None,
    let_in: Callable[[relay_pb2.JobHello], bool] = lambda hello: False,
) -> RelayService:
    """A relay whose node is in step unless `ages` says otherwise."""
    admission = Admission(board, Ages() if ages is None else ages, clock)
    return RelayService(
        board,
        pool,
        clock,
        admission=admission,
        desk=desk or SessionDesk("n1", clock, Told()),
        status=lambda: relay_pb2.GetNodeStatusResponse(node_id="n1"),
        let_in=let_in,
    )
