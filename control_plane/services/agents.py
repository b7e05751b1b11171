"""AgentService: every call is a decision or a read on the tenant's state."""

# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from control_plane.services import decisions, reads
from control_plane.services.call import principal
from control_plane.state import Act, BesideLoop, Decision, Tenants, TenantState
from voxplane.names import TenantId
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import agent_service_pb2_grpc as service_grpc

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

_METHOD = f"/{service_pb2.DESCRIPTOR.services_by_name['AgentService'].full_name}/"


class AgentService(service_grpc.AgentServiceServicer):
    """Requests have passed the edge: they are valid and permitted."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._beside = BesideLoop()

    async def CreateAgent(
        self, request: service_pb2.CreateAgentRequest, context: Context
    ) -> service_pb2.CreateAgentResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id, decisions.create_agent, request, service_pb2.CreateAgentResponse, "CreateAgent"
        )

    async def GetAgent(
        self, request: service_pb2.GetAgentRequest, context: Context
    ) -> service_pb2.GetAgentResponse:
        """See the contract."""
        return await self._read(request.tenant_id, reads.get_agent, request)

    async def ListAgents(
        self, request: service_pb2.ListAgentsRequest, context: Context
    ) -> service_pb2.ListAgentsResponse:
        """See the contract."""
        return await self._read(request.tenant_id, reads.list_agents, request)

    async def UpdateAgentConfig(
        self, request: service_pb2.UpdateAgentConfigRequest, context: Context
    ) -> service_pb2.UpdateAgentConfigResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id,
            decisions.update_agent_config,
            request,
            service_pb2.UpdateAgentConfigResponse,
            "UpdateAgentConfig",
        )

    async def DeleteAgent(
        self, request: service_pb2.DeleteAgentRequest, context: Context
    ) -> service_pb2.DeleteAgentResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id, decisions.delete_agent, request, service_pb2.DeleteAgentResponse, "DeleteAgent"
        )

    async def UndeleteAgent(
        self, request: service_pb2.UndeleteAgentRequest, context: Context
    ) -> service_pb2.UndeleteAgentResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id,
            decisions.undelete_agent,
            request,
            service_pb2.UndeleteAgentResponse,
            "UndeleteAgent",
        )

    async def AddSchemaField(
        self, request: service_pb2.AddSchemaFieldRequest, context: Context
    ) -> service_pb2.AddSchemaFieldResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id,
            decisions.add_schema_field,
            request,
            service_pb2.AddSchemaFieldResponse,
            "AddSchemaField",
        )

    async def RemoveSchemaField(
        self, request: service_pb2.RemoveSchemaFieldRequest, context: Context
    ) -> service_pb2.RemoveSchemaFieldResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id,
            decisions.remove_schema_field,
            request,
            service_pb2.RemoveSchemaFieldResponse,
            "RemoveSchemaField",
        )

    async def SetTracing(
        self, request: service_pb2.SetTracingRequest, context: Context
    ) -> service_pb2.SetTracingResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id, decisions.set_tracing, request, service_pb2.SetTracingResponse, "SetTracing"
        )

    async def GetAgentVersion(
        self, request: service_pb2.GetAgentVersionRequest, context: Context
    ) -> service_pb2.GetAgentVersionResponse:
        """See the contract."""
        return await self._read(request.tenant_id, reads.get_agent_version, request)

    async def ListAgentVersions(
        self, request: service_pb2.ListAgentVersionsRequest, context: Context
    ) -> service_pb2.ListAgentVersionsResponse:
        """See the contract."""
        return await self._read(request.tenant_id, reads.list_agent_versions, request)

    async def SetAlias(
        self, request: service_pb2.SetAliasRequest, context: Context
    ) -> service_pb2.SetAliasResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id, decisions.set_alias, request, service_pb2.SetAliasResponse, "SetAlias"
        )

    async def RollbackAlias(
        self, request: service_pb2.RollbackAliasRequest, context: Context
    ) -> service_pb2.RollbackAliasResponse:
        """See the contract."""
        return await self._commit(
            request.tenant_id,
            decisions.rollback_alias,
            request,
            service_pb2.RollbackAliasResponse,
            "RollbackAlias",
        )

    async def RenderPrompt(
        self, request: service_pb2.RenderPromptRequest, context: Context
    ) -> service_pb2.RenderPromptResponse:
        """See the contract."""
        state = await self._tenants.get(TenantId(request.tenant_id))
        if reads.is_long_to_render(state, request):
            return await self._beside.run(partial(reads.render_prompt, state, request))
        return reads.render_prompt(state, request)

    async def _commit(
        self,
        tenant_id: str,
        decide: Callable[[TenantState, RequestT, Act], Decision[ResponseT]],
        request: RequestT,
        answer: type[ResponseT],
        method: str,
    ) -> ResponseT:
        return await self._tenants.commit(
            TenantId(tenant_id),
            lambda state, act: decide(state, request, act),
            request,
            method=_METHOD + method,
            principal=principal(),
            answer=answer,
        )

    async def _read(
        self, tenant_id: str, read: Callable[[TenantState, RequestT], ResponseT], request: RequestT
    ) -> ResponseT:
        return read(await self._tenants.get(TenantId(tenant_id)), request)
