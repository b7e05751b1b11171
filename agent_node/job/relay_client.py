"""The job's side of the node's relay."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from types import TracebackType

import grpc
from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.job.outgoing import Outgoing
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import session_pb2, session_service_pb2
from voxplane.v1.config_sync_service_pb2 import BundleStatus

RELAY_SOCKET_ENV = "VOXPLANE_RELAY_SOCKET"
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
LEAVE_SECONDS_MAX = 1.0

_STATUS_KEY = "grpc-status-details-bin"

# both ends are one node: no proxy stands between, and a loop of reconnects would find nobody
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)


Command = session_service_pb2.SessionCommand
AttachCall = grpc.aio.StreamStreamCall[relay_pb2.AttachRequest, relay_pb2.AttachResponse]


class RelayClosedError(Exception):
    """The relay has ended the stream, or is gone; `status` says why."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def relay_channel(socket: str | None = None) -> grpc.aio.Channel:
    """A channel to the relay's socket, by default the one that the node named
    in the environment. Make it in the job's own process and loop."""
    return grpc.aio.insecure_channel(
        f"unix:{socket or os.environ[RELAY_SOCKET_ENV]}", options=list(_CHANNEL_OPTIONS)
    )


def status_of_rpc(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The error's google.rpc.Status, with its details if it brought any."""
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    code: tuple[int, str] = error.code().value
    return status_pb2.Status(code=code[0], message=error.details() or error.code().name)


class Attachment:
    """One session's link to its node.

        async with Attachment(channel, hello) as attachment:
            async for delivery in attachment: ...

    Deliveries that were not fetched are skipped for the latest. `on_command`
    is called on the loop, and so is `on_follow_refused`; who begins to listen
    later sets them. `legacy` is what
    a process that died left of the session; it is there with the first
    delivery, if at all.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        hello: relay_pb2.JobHello,
        on_command: Callable[[Command], None] = lambda _: None,
    ) -> None:
        self.legacy: relay_pb2.SessionLegacy | None = None
        self._stub = relay_grpc.RelayServiceStub(channel)
        self._hello = hello
        self.on_command = on_command
        self.on_follow_refused: Callable[[relay_pb2.FollowRefused], None] = lambda refused: None
        self._latest: relay_pb2.BundleDelivery | None = None
        self._outgoing = Outgoing()
        self._news = asyncio.Event()
        self._to_send = asyncio.Event()
        self._ended: RelayClosedError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving = False

    async def __aenter__(self) -> Attachment:
        call = self._stub.Attach(wait_for_ready=True)
        self._tasks = [asyncio.create_task(self._read(call)), asyncio.create_task(self._write(call))]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving = True
        self._to_send.set()
        # the relay answers the end of the reports with its own
        await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS_MAX)
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def __aiter__(self) -> AsyncIterator[relay_pb2.BundleDelivery]:
        """The newest delivery, whenever there is a newer one. Raises
        RelayClosedError when the relay is gone."""
        while True:
            await self._news.wait()
            self._news.clear()
            latest, self._latest = self._latest, None
            if latest is not None:
                yield latest
            if self._ended is not None:
                raise self._ended

    def report(self, status: BundleStatus) -> None:
        """Tell the node what became of a bundle. Never waits."""
        self._outgoing.status(status)
        self._to_send.set()

    def tell(self, session: session_pb2.Session, *turns: session_pb2.SessionTurn) -> None:
        """Tell the node how the session stands. Never waits."""
        self._outgoing.session(session, *turns)
        self._to_send.set()

    def answer(self, result: session_service_pb2.SessionCommandResult) -> None:
        """Tell the node what became of a command. Never waits."""
        self._outgoing.result(result)
        self._to_send.set()

    def remember(self, turns: int, *items: bytes) -> None:
        """Leave with the node what a process that takes this one's place has
        to know. Never waits."""
        self._outgoing.memory(turns, *items)
        self._to_send.set()

    def follow(self, agent_id: str) -> None:
        """From now on get the bundles of another agent. Never waits."""
        self._outgoing.follow(agent_id)
        self._to_send.set()

    def count(self, *, swap: str = "", error: str = "", pss_bytes: int = 0) -> None:
        """One more swap or error of a kind, or the process' memory. Never
        waits."""
        self._outgoing.figures(swap=swap, error=error, pss_bytes=pss_bytes)
        self._to_send.set()

    async def _read(self, call: AttachCall) -> None:
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "bundle":
                        self._latest = response.bundle
                        self._news.set()
                    case "command":
                        self.on_command(response.command)
                    case "follow_refused":
                        self.on_follow_refused(response.follow_refused)
                    case "legacy":
                        self.legacy = response.legacy
                    case _:
                        pass
        except grpc.aio.AioRpcError as error:
            self._ended = RelayClosedError(status_of_rpc(error))
        finally:
            call.cancel()
            self._ended = self._ended or RelayClosedError(
                status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the relay has ended the stream")
            )
            self._news.set()

    async def _write(self, call: AttachCall) -> None:
        try:
            self._hello.pid = os.getpid()
            await call.write(relay_pb2.AttachRequest(hello=self._hello))
            while not self._leaving or self._to_send.is_set():
                await self._to_send.wait()
                self._to_send.clear()
                while (request := self._outgoing.next()) is not None:
                    await call.write(request)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the reader sees why
