"""Attacks on the size of what a client declares."""

from __future__ import annotations

import grpc

from agent_node.upstream.refusal import ended_by
from control_plane.edge.listen import RECEIVED_MESSAGE_BYTES_MAX
from voxplane.names import ALL_TENANTS
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.validation import violations_of_message

BUNDLES = 150_000


def test_a_request_that_is_too_large_is_not_repeated() -> None:
    """A node that has more than one request can declare is within the
    contract, and yet refused by gRPC's own limit. The next time it declares
    less, or it would never come back."""
    request = sync_pb2.WatchConfigRequest(tenant_id=ALL_TENANTS)
    for number in range(BUNDLES):
        request.known[f"tenants/t{number // 50}/agents/agent-{number:06}"] = "e" * 32
        request.known_contents.append(f"{number:064}")
    assert not violations_of_message(request)
    assert request.ByteSize() > RECEIVED_MESSAGE_BYTES_MAX
    details = (
        f"SERVER: Received message larger than max ({request.ByteSize()} vs. {RECEIVED_MESSAGE_BYTES_MAX})"
    )
    refusal = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details
    )
    assert ended_by(refusal, "", 0.0).refused == ALL_TENANTS
