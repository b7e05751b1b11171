"""What messages and errors of the contract look like in a history."""

from __future__ import annotations

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tests.robustness.history import At, Bundle, Received, Start, Synced, Transfer
from voxplane.errors import reason_of
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import revision_pb2

_DETAILS = "grpc-status-details-bin"


def at_of(revision: revision_pb2.Revision) -> At:
    """A revision as a record has it."""
    return At(revision.number, revision.epoch)


def received(time: float, stream: str, message: sync_pb2.WatchConfigResponse) -> Received:
    """A message of a stream as a record."""
    transfer: Transfer | None = None
    beat: dict[str, At] | None = None
    drain, missing = "", None
    match message.WhichOneof("event"):
        case "transfer":
            transfer = transfer_of(message.transfer)
        case "heartbeat":
            beat = {tenant: at_of(revision) for tenant, revision in message.heartbeat.revisions.items()}
        case "drain":
            drain = sync_pb2.DrainReason.Name(message.drain.reason).removeprefix("DRAIN_REASON_")
        case "report_request":
            missing = message.report_request.missing_sequence
        case _:
            pass
    return Received(time, stream, message.stream_id, message.nonce, transfer, beat, drain, missing)


def transfer_of(message: sync_pb2.ConfigTransfer) -> Transfer:
    """One message of a transfer as a part of a record."""
    start, synced = None, None
    if message.HasField("start"):
        intent = sync_pb2.TransferIntent.Name(message.start.intent).removeprefix("TRANSFER_INTENT_")
        start = Start(
            intent, message.start.reason, message.start.from_revision, message.start.skipped_revisions
        )
    if message.HasField("synced"):
        synced = Synced(message.synced.digest, message.synced.bundle_count)
    return Transfer(
        message.tenant_id,
        at_of(message.revision),
        start,
        [
            Bundle(b.name, b.etag, b.revision, [version.content_hash for version in b.versions])
            for b in message.bundles
        ],
        list(message.removed),
        [content.content_hash for content in message.contents],
        dict(message.withheld),
        synced,
        message.tenant_removed,
    )


def reason(error: grpc.aio.AioRpcError) -> str:
    """The reason of the contract; the bare code if the server gave none."""
    return reason_of(_status(error)) or f"rpc {error.code().name}"


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    """How long the server asks to wait; 0 if it does not."""
    retry = error_details_pb2.RetryInfo()
    for detail in _status(error).details:
        if detail.Unpack(retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return 0.0


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
