"""What became of a bundle in a session, as the node and the user are told."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from agent_node.job.swap import Applied, Refused, Waiting
from agent_node.job.targets import Bundle
from voxplane.errors import to_status
from voxplane.node.v1.relay_service_pb2 import ChatSwap
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

CHANGED_FIELDS_MAX = 100

Outcome = Waiting | Applied | Refused


def status_of(outcome: Outcome, now: float) -> sync_pb2.BundleStatus:
    """The report to the node; `now` in seconds since 1970."""
    match outcome:
        case Waiting(target):
            return _status(target.bundle, sync_pb2.CONFIG_PHASE_APPLYING, now)
        case Applied(target):
            return _status(target.bundle, sync_pb2.CONFIG_PHASE_APPLIED, now)
        case Refused(bundle, _, _, error):
            status = _status(bundle, sync_pb2.CONFIG_PHASE_FAILED, now)
            status.error.CopyFrom(to_status(error))
            return status


def notice_of(outcome: Outcome, now: float) -> ChatSwap | None:
    """What the user of a text session is told; None if it is nothing new:
    the session's first config, the same version again, a wait."""
    match outcome:
        case Applied(target, before, plan) if before is not None and plan is not None:
            if before.version == target.version and plan.nothing_to_do:
                return None
            swap = _swap(target.bundle, sync_pb2.CONFIG_PHASE_APPLIED, now)
            swap.changed_fields.extend(list(plan.effects)[:CHANGED_FIELDS_MAX])
            swap.from_version, swap.to_version = before.version, target.version
            swap.version_label = target.config.version
            return swap
        case Refused(bundle, target, running, error) if running is not None:
            swap = _swap(bundle, sync_pb2.CONFIG_PHASE_FAILED, now)
            swap.from_version = running.version
            if target is not None:
                swap.to_version, swap.version_label = target.version, target.config.version
            swap.error.CopyFrom(to_status(error))
            return swap
        case _:
            return None


def _status(bundle: Bundle, phase: sync_pb2.ConfigPhase, now: float) -> sync_pb2.BundleStatus:
    return sync_pb2.BundleStatus(
        name=bundle.name,
        etag=bundle.etag,
        revision=bundle.revision,
        phase=phase,
        sessions=1,
        time=_timestamp(now),
    )


def _swap(bundle: Bundle, phase: sync_pb2.ConfigPhase, now: float) -> ChatSwap:
    swap = ChatSwap(revision=bundle.revision, phase=phase, time=_timestamp(now))
    if bundle.commit_time is not None:
        swap.since_commit.FromNanoseconds(round((now - bundle.commit_time) * 1e9))
    return swap


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(round(seconds * 1e9))
    return stamp
