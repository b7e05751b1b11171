"""SessionService: the sessions that nodes report."""

# ruff: noqa: N802

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from control_plane.services.call import principal
from control_plane.services.decisions.change import find, version_of
from control_plane.services.pages import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, last_key, not_of_this_list, page
from control_plane.sessions import Sessions
from control_plane.state import Tenants
from control_plane.store import Place, SessionQuery
from control_plane.store.session_table import place_of
from voxplane.names import TenantId
from voxplane.v1 import bundle_pb2, session_pb2, session_service_pb2_grpc
from voxplane.v1 import session_service_pb2 as pb2

_Context = grpc.aio.ServicerContext[Any, Any]


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Requests are valid, each one of a node's stream too."""

    def __init__(self, sessions: Sessions, tenants: Tenants) -> None:
        self._sessions = sessions
        self._tenants = tenants

    async def ReportSessions(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, requests: AsyncIterator[pb2.ReportSessionsRequest], context: _Context
    ) -> None:
        """ReportSessions of the contract."""
        await context.send_initial_metadata(())
        await self._sessions.report(requests, context.write)

    async def GetSession(self, request: pb2.GetSessionRequest, context: _Context) -> pb2.GetSessionResponse:
        """GetSession of the contract."""
        session = await self._sessions.get(request.tenant_id, request.session_id)
        turns = await self._sessions.turns(request.tenant_id, request.session_id)
        return pb2.GetSessionResponse(session=session, turns=turns)

    async def ListSessions(
        self, request: pb2.ListSessionsRequest, context: _Context
    ) -> pb2.ListSessionsResponse:
        """ListSessions of the contract."""
        narrowed = (request.agent_id, request.state, request.version, request.node_id, request.user_id)
        binding = f"sessions {request.tenant_id} {narrowed}"
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        before = _place(last_key(request.page_token, binding))
        # One more than the page has, which tells whether there is another.
        query = SessionQuery(request.tenant_id, *narrowed, before=before, limit=size + 1)
        sessions, token = page(await self._sessions.page(query), size, _key, binding)
        return pb2.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def WatchSessions(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb2.WatchSessionsRequest, context: _Context
    ) -> None:
        """WatchSessions of the contract."""
        # Alone: gRPC cannot end a call with a status when its headers went
        # with a first message that nobody took.
        await context.send_initial_metadata(())
        await self._sessions.watch(request, context.write)

    async def EndSession(self, request: pb2.EndSessionRequest, context: _Context) -> pb2.EndSessionResponse:
        """EndSession of the contract."""
        command = pb2.SessionCommand(end=pb2.EndSessionAction(now=request.now, reason=request.reason))
        return pb2.EndSessionResponse(session=await self._command(request, command))

    async def PinSession(self, request: pb2.PinSessionRequest, context: _Context) -> pb2.PinSessionResponse:
        """PinSession of the contract. The node has taken the pin; it reports so
        after it has answered."""
        command = pb2.SessionCommand(pin_version=request.version)
        if request.version:
            command.pinned_content.CopyFrom(await self._content(request))
        session = await self._command(request, command)
        response = pb2.PinSessionResponse(session=session)
        response.session.pinned_version = request.version
        return response

    async def SetSessionTracing(
        self, request: pb2.SetSessionTracingRequest, context: _Context
    ) -> pb2.SetSessionTracingResponse:
        """SetSessionTracing of the contract. As with PinSession the node
        reports it later."""
        session = await self._command(request, pb2.SessionCommand(trace=request.enabled))
        response = pb2.SetSessionTracingResponse(session=session)
        response.session.traced = request.enabled
        return response

    async def _content(self, request: pb2.PinSessionRequest) -> bundle_pb2.VersionContent:
        """The version to pin: the node's bundle may not reach it."""
        session = await self._sessions.get(request.tenant_id, request.session_id)
        state = await self._tenants.get(TenantId(request.tenant_id))
        version = version_of(find(state, session.agent_id), request.version)
        return bundle_pb2.VersionContent(content_hash=version.content_hash, config=version.config)

    async def _command(
        self,
        request: pb2.EndSessionRequest | pb2.PinSessionRequest | pb2.SetSessionTracingRequest,
        command: pb2.SessionCommand,
    ) -> session_pb2.Session:
        return await self._sessions.command(request.tenant_id, request.session_id, command, principal())


def _key(session: session_pb2.Session) -> str:
    place = place_of(session)
    return f"{place.started} {place.session_id}"


def _place(key: str) -> Place | None:
    if not key:
        return None
    started, _, session_id = key.partition(" ")
    try:
        return Place(int(started), session_id)
    except ValueError:
        raise not_of_this_list() from None
