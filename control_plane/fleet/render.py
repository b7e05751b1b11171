"""A node as the contract shows it."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from control_plane.fleet.records import BundleReport, NodeRecord, TenantRecord
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_pb2


def node_message(node: NodeRecord) -> node_pb2.Node:
    """The whole node."""
    message = node_pb2.Node(
        node_id=node.info.node_id,
        version=node.info.version,
        labels=node.info.labels,
        connected=bool(node.stream_id),
        connect_time=_timestamp(node.connect_time),
        last_seen_time=_timestamp(node.last_seen),
    )
    for tenant_id in sorted(node.tenants):
        tenant = node.tenant(tenant_id)
        if tenant is not None:
            message.tenants.append(_tenant_message(tenant_id, tenant))
    return message


def _tenant_message(tenant_id: TenantId, tenant: TenantRecord) -> node_pb2.NodeTenant:
    message = node_pb2.NodeTenant(tenant_id=tenant_id, acked_revision=tenant.acked)
    if tenant.level is None:
        return message
    message.sent_revision.CopyFrom(tenant.level.revision)
    for name in sorted(tenant.level.bundles):
        sent = "" if name in tenant.level.unsent else tenant.level.bundles[name].etag
        bundle = message.bundles.add(name=name, sent_etag=sent)
        report = tenant.reports.get(name)
        if report is not None:
            bundle.status.CopyFrom(_status_message(name, report))
            bundle.effective_etag = report.effective_etag
            bundle.effective_revision = report.effective_revision
    return message


def _status_message(name: str, report: BundleReport) -> sync_pb2.BundleStatus:
    message = sync_pb2.BundleStatus(
        name=name,
        etag=report.etag,
        revision=max(report.revision, 0),
        phase=report.phase,
        error=report.error,
        sessions=report.sessions,
    )
    if report.time:
        message.time.FromNanoseconds(report.time)
    return message


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
