"""The part of a LiveKit server that workers talk to: the websocket at /agent. It has no rooms."""

from __future__ import annotations

import asyncio
from types import TracebackType

from aiohttp import web
from livekit.protocol import agent, models


class AgentEndpoint:
    """Registers workers and offers them jobs; `async with AgentEndpoint() as endpoint`.

    `registrations` holds each worker's request to register. Who enters a room
    is refused, or with `rooms_hang` never answered.
    """

    def __init__(self, *, rooms_hang: bool = False) -> None:
        self.registrations: asyncio.Queue[agent.RegisterWorkerRequest] = asyncio.Queue()
        self.answers: asyncio.Queue[agent.AvailabilityResponse] = asyncio.Queue()
        self.updates: asyncio.Queue[agent.UpdateJobStatus] = asyncio.Queue()
        self._loads: asyncio.Queue[bool] = asyncio.Queue()
        self._full = self._away = False
        self._jobs: dict[str, agent.Job] = {}
        self._socket: web.WebSocketResponse | None = None
        app = web.Application()
        app.add_routes([web.get("/agent", self._serve)])
        if rooms_hang:
            app.add_routes([web.get("/rtc/{version}", self._hang)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)

    @property
    def url(self) -> str:
        """What LIVEKIT_URL is set to."""
        return f"ws://127.0.0.1:{self._runner.addresses[0][1]}"

    async def offer(self, metadata: str, job_id: str = "job-1") -> agent.AvailabilityResponse:
        """Offer a job to the worker and assign it if the worker is willing; its answer."""
        assert self._socket is not None
        job = agent.Job(id=job_id, agent_name="voxplane", metadata=metadata, type=agent.JobType.JT_ROOM)
        job.room.CopyFrom(models.Room(sid="RM_1", name="room-1"))
        self._jobs[job_id] = job
        message = agent.ServerMessage(availability=agent.AvailabilityRequest(job=job))
        await self._socket.send_bytes(message.SerializeToString())
        return await self.answers.get()

    async def full(self) -> bool:
        """Wait until the worker says the contrary of what it last said: that it is full, or not any more."""
        while (said := await self._loads.get()) == self._full:
            pass
        self._full = said
        return said

    async def go_away(self) -> None:
        """Close the connection to the worker, and take no other until `come_back`."""
        self._away = True
        assert self._socket is not None
        await self._socket.close()

    def come_back(self) -> None:
        """Take connections again."""
        self._away = False

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        if self._away:
            raise web.HTTPServiceUnavailable
        assert request.headers["Authorization"].startswith("Bearer ")
        self._socket = socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for frame in socket:
            message = agent.WorkerMessage.FromString(frame.data)
            match message.WhichOneof("message"):
                case "register":
                    welcome = agent.RegisterWorkerResponse(worker_id="AW_1", server_info=models.ServerInfo())
                    await socket.send_bytes(agent.ServerMessage(register=welcome).SerializeToString())
                    await self.registrations.put(message.register)
                case "availability":
                    if message.availability.available:
                        await self._assign(socket, message.availability.job_id)
                    await self.answers.put(message.availability)
                case "update_worker":
                    self._loads.put_nowait(message.update_worker.status == agent.WorkerStatus.WS_FULL)
                case "update_job":
                    await self.updates.put(message.update_job)
                case _:
                    pass
        return socket

    async def _hang(self, request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def _assign(self, socket: web.WebSocketResponse, job_id: str) -> None:
        assignment = agent.JobAssignment(job=self._jobs[job_id], token="a.b.c")
        await socket.send_bytes(agent.ServerMessage(assignment=assignment).SerializeToString())

    async def __aenter__(self) -> AgentEndpoint:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
