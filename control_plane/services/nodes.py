"""NodeService: the fleet, and waiting for it to run a revision."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import grpc

from control_plane.fleet import (
    WORK_OF_MESSAGE,
    Fleet,
    NodeRecord,
    Rollcall,
    Steps,
    Survey,
    Target,
    in_turns,
    node_message,
    survey_answers,
)
from control_plane.services.pages import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, last_key, page
from control_plane.state import Tenants, TenantState
from voxplane.clock import Clock
from voxplane.errors import VoxplaneError
from voxplane.names import AgentName, TenantId, agent_name
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1 import node_pb2, node_service_pb2, node_service_pb2_grpc

WAIT_SECONDS_DEFAULT = 10.0
PAGE_BYTES_MAX = 1_048_576
"""What the loop can put into one message at a time."""
SURVEYED_MAX = 250
"""Agents in one page of GetFleetStatus."""

_Context = grpc.aio.ServicerContext[Any, Any]


class NodeService(node_service_pb2_grpc.NodeServiceServicer):
    """Requests are valid. However many nodes there are, the loop has its turns
    in between."""

    def __init__(self, fleet: Fleet, tenants: Tenants, clock: Clock) -> None:
        self._fleet = fleet
        self._tenants = tenants
        self._clock = clock

    async def GetNode(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.GetNodeRequest, context: _Context
    ) -> node_service_pb2.GetNodeResponse:
        """GetNode of the contract."""
        node = self._fleet.node(request.node_id)
        names = _names(request.tenant_id, request.agent_ids)
        steps = node_message(node, tenant_id=request.tenant_id, names=names)
        return node_service_pb2.GetNodeResponse(node=await in_turns(steps))

    async def ListNodes(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.ListNodesRequest, context: _Context
    ) -> node_service_pb2.ListNodesResponse:
        """ListNodes of the contract."""
        binding = f"nodes {request.tenant_id}"
        after = last_key(request.page_token, binding)
        found = self._found(self._fleet.ids(request.tenant_id, after), request.tenant_id)
        messages = await in_turns(_node_messages(found, request))
        taken, token = page(messages, request.page_size, _node_id, binding, PAGE_BYTES_MAX)
        return node_service_pb2.ListNodesResponse(nodes=taken, next_page_token=token)

    async def GetFleetStatus(  # noqa: N802 - the contract's name
        self, request: node_service_pb2.GetFleetStatusRequest, context: _Context
    ) -> node_service_pb2.GetFleetStatusResponse:
        """GetFleetStatus of the contract."""
        binding = f"fleet {request.tenant_id} {' '.join(sorted(request.agent_ids))}"
        after = last_key(request.page_token, binding)
        state = await self._tenants.get(TenantId(request.tenant_id))
        wanted = _names(request.tenant_id, request.agent_ids)
        names = sorted(name for name in (wanted or state.bundles) if name in state.bundles and name > after)
        # One more than the page has, which tells whether there is another.
        size = min(_size(request.page_size), SURVEYED_MAX)
        bundles = {name: state.bundles[name] for name in names[: size + 1]}
        survey = Survey(Target(state.tenant_id, state.revision, bundles))
        found = self._found(self._fleet.ids(request.tenant_id), request.tenant_id)
        await in_turns(survey.see(node) for node in found)
        answers = await in_turns(survey_answers(survey, bundles.values(), PAGE_BYTES_MAX))
        taken, token = page(answers, size, _name, binding, PAGE_BYTES_MAX)
        return node_service_pb2.GetFleetStatusResponse(
            agents=taken,
            next_page_token=token,
            revision=state.revision_message(),
            nodes=survey.nodes,
            connected=survey.connected,
        )

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
            converged=rollcall.converged,
            revision=state.revision_message(),
            node_count=rollcall.node_count,
            converged_count=rollcall.converged_count,
        )
        await in_turns(rollcall.answer(response.nodes))
        response.waited.FromNanoseconds(round((self._clock.monotonic() - began) * 1e9))
        return response

    async def _wait(self, state: TenantState, min_nodes: int, seconds: float) -> Rollcall:
        rollcall = Rollcall(Target(state.tenant_id, state.revision, state.bundles), min_nodes)
        with self._fleet.follow() as changes:
            await in_turns(self._see(rollcall, self._fleet.ids(state.tenant_id)))
            if seconds <= 0:
                return rollcall
            timer = asyncio.ensure_future(self._clock.sleep(seconds))
            timer.add_done_callback(lambda _: changes.wake())
            try:
                while not (timer.done() or (rollcall.over and not changes.any)):
                    await in_turns(self._see(rollcall, await changes.next()))
            finally:
                timer.cancel()
        return rollcall

    def _see(self, rollcall: Rollcall, node_ids: Iterable[str]) -> Steps[None]:
        for node_id in node_ids:
            yield rollcall.see(node_id, self._fleet.find(node_id))

    def _found(self, node_ids: Iterable[str], tenant_id: str) -> Iterator[NodeRecord]:
        for node_id in node_ids:
            node = self._fleet.find(node_id)
            if node is not None and (not tenant_id or node.watches(tenant_id)):
                yield node


def _node_messages(
    nodes: Iterable[NodeRecord], request: node_service_pb2.ListNodesRequest
) -> Steps[list[node_pb2.Node]]:
    """The nodes of a page, and one more if there is one."""
    messages: list[node_pb2.Node] = []
    with_bundles = request.view != node_pb2.NODE_VIEW_BASIC
    size = 0
    for node in nodes:
        message = yield from node_message(node, tenant_id=request.tenant_id, with_bundles=with_bundles)
        messages.append(message)
        size += message.ByteSize()
        if size > PAGE_BYTES_MAX or len(messages) > _size(request.page_size):
            break
        yield WORK_OF_MESSAGE
    return messages


def _size(page_size: int) -> int:
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def _names(tenant_id: str, agent_ids: Iterable[str]) -> Collection[AgentName]:
    return {agent_name(tenant_id, agent_id) for agent_id in agent_ids}


def _node_id(node: node_pb2.Node) -> str:
    return node.node_id


def _name(agent: node_pb2.AgentFleetStatus) -> str:
    return agent.name
