"""Nodes as the contract shows them, as far as the room goes."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf import timestamp_pb2

from control_plane.fleet.records import NodeRecord, SentLevel, TenantRecord
from control_plane.fleet.reports import BundleReport
from control_plane.fleet.steps import WORK_OF_MESSAGE, Steps
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2

NODE_BYTES_MAX = 1_048_576
"""What is above it is left out of a node's message; counts tell."""
ITEM_BYTES_EXTRA = 4
BUNDLES_PER_STEP = 100


def node_message(
    node: NodeRecord,
    *,
    tenant_id: str = "",
    names: Collection[AgentName] = (),
    with_bundles: bool = True,
    bytes_max: int = NODE_BYTES_MAX,
) -> Steps[node_pb2.Node]:
    """A node. With `tenant_id` only that tenant's part, with `names` only
    those bundles. Tenants and bundles that `bytes_max` has no room for are left
    out from the first such one on."""
    message = node_pb2.Node(
        node_id=node.info.node_id,
        version=node.info.version,
        labels=node.info.labels,
        connected=bool(node.stream_id),
        connect_time=_timestamp(node.connect_time),
        last_seen_time=_timestamp(node.last_seen),
        tenant_count=len(node.tenants),
    )
    room = bytes_max - message.ByteSize()
    for wanted in sorted(node.tenants) if not tenant_id else (TenantId(tenant_id),):
        tenant = node.tenant(wanted)
        if tenant is None:
            continue
        shown = yield from _tenant_message(wanted, tenant)
        room -= shown.ByteSize() + ITEM_BYTES_EXTRA
        if room < 0:
            break
        if with_bundles and tenant.level is not None:
            room = yield from _add_bundles(shown, tenant, tenant.level, names, room)
        message.tenants.append(shown)
        if room < 0:
            break
    return message


def _tenant_message(tenant_id: TenantId, tenant: TenantRecord) -> Steps[node_pb2.NodeTenant]:
    message = node_pb2.NodeTenant(tenant_id=tenant_id, acked_revision=tenant.acked)
    if tenant.level is None:
        return message
    yield WORK_OF_MESSAGE + 2 * len(tenant.level.bundles)
    message.sent_revision.CopyFrom(tenant.level.revision)
    message.bundle_count = len(tenant.level.bundles)
    message.effective_count = len(tenant.level.bundles) - len(tenant.behind)
    message.refused_count = len(tenant.refusals)
    message.sessions = tenant.reports.sessions()
    return message


def _add_bundles(
    message: node_pb2.NodeTenant,
    tenant: TenantRecord,
    level: SentLevel,
    names: Collection[AgentName],
    room: int,
) -> Steps[int]:
    """Add bundles as long as there is room for them; returns what is left of
    it, less than nothing if some were left out."""
    wanted = sorted(level.bundles.keys() & names if names else level.bundles)
    for number, name in enumerate(wanted, 1):
        sent = "" if name in level.unsent else level.bundles[name].etag
        bundle = node_pb2.NodeBundle(name=name, sent_etag=sent)
        report = tenant.reports.get(name)
        if report is not None:
            bundle.status.CopyFrom(_status_message(name, report))
            if report.effective is not None:
                bundle.effective_etag = report.effective.etag
                bundle.effective_revision = report.effective.revision
        room -= bundle.ByteSize() + ITEM_BYTES_EXTRA
        if room < 0:
            break
        message.bundles.append(bundle)
        if number % BUNDLES_PER_STEP == 0:
            yield WORK_OF_MESSAGE * BUNDLES_PER_STEP
    return room


def _status_message(name: AgentName, report: BundleReport) -> sync_pb2.BundleStatus:
    word = report.word
    message = sync_pb2.BundleStatus(
        name=name,
        etag=word.etag,
        revision=word.revision,
        phase=word.phase,
        error=word.error,
        sessions=report.sessions,
    )
    if report.time:
        message.time.FromNanoseconds(report.time)
    return message


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
