"""NodeService: the fleet, and waiting for it to run a revision."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from control_plane.fleet import Fleet, Rollcall, Target, node_message
from control_plane.services.pages import last_key, page
from control_plane.state import Tenants, TenantState
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import TenantId
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import node_pb2, node_service_pb2, node_service_pb2_grpc

WAIT_SECONDS_DEFAULT = 10.0

_Context = grpc.aio.ServicerContext[Any, Any]


class NodeService(node_service_pb2_grpc.NodeServiceServicer):
    """Requests are valid."""

    def __init__(self, fleet: Fleet, tenants: Tenants, clock: Clock) -> None:
        self._fleet = fleet
        self._tenants = tenants
        self._clock = clock

    async def GetNode(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.GetNodeRequest, context: _Context
    ) -> node_service_pb2.GetNodeResponse:
        """GetNode of the contract."""
        return node_service_pb2.GetNodeResponse(node=node_message(self._fleet.node(request.node_id)))

    async def ListNodes(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.ListNodesRequest, context: _Context
    ) -> node_service_pb2.ListNodesResponse:
        """ListNodes of the contract."""
        binding = f"nodes {request.tenant_id}"
        after = last_key(request.page_token, binding)
        found = self._fleet.select(
            lambda node: (
                node.info.node_id > after and (not request.tenant_id or node.watches(request.tenant_id))
            )
        )
        messages = (node_message(node) for node in found)
        taken, token = page(messages, request.page_size, _node_id, binding)
        return node_service_pb2.ListNodesResponse(nodes=taken, next_page_token=token)

    async def WaitForConvergence(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.WaitForConvergenceRequest, context: _Context
    ) -> node_service_pb2.WaitForConvergenceResponse:
        """WaitForConvergence of the contract."""
        state = await self._tenants.get(TenantId(request.tenant_id))
        if request.revision > state.revision:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_REVISION_IN_FUTURE,
                f"tenant {state.tenant_id} is at {state.revision}, not yet at {request.revision}",
                metadata={"tenant": state.tenant_id, "revision": str(state.revision)},
            )
        seconds = WAIT_SECONDS_DEFAULT
        if request.HasField("timeout"):
            seconds = request.timeout.ToNanoseconds() / 1e9
        began = self._clock.monotonic()
        rollcall = await self._wait(state, request.min_nodes, seconds)
        response = node_service_pb2.WaitForConvergenceResponse(
            converged=rollcall.converged, nodes=rollcall.answers, revision=state.revision_message()
        )
        response.waited.FromNanoseconds(round((self._clock.monotonic() - began) * 1e9))
        return response

    async def _wait(self, state: TenantState, min_nodes: int, seconds: float) -> Rollcall:
        rollcall = Rollcall(Target(state.tenant_id, state.revision, state.bundles), min_nodes)
        with self._fleet.follow() as changes:
            for node in self._fleet.select(lambda node: node.watches(state.tenant_id)):
                rollcall.see(node.info.node_id, node)
            if rollcall.over or seconds <= 0:
                return rollcall
            timer = asyncio.ensure_future(self._clock.sleep(seconds))
            timer.add_done_callback(lambda _: changes.wake())
            try:
                while not (rollcall.over or timer.done()):
                    for node_id in await changes.next():
                        rollcall.see(node_id, self._fleet.find(node_id))
            finally:
                timer.cancel()
        return rollcall


def _node_id(node: node_pb2.Node) -> str:
    return node.node_id
