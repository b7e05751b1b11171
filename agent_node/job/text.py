"""A text job: `python -m agent_node.job.text`.

Waits at the node's relay for a session, runs it, and ends with it. It also
ends when its standard input does, for then the node is gone. Ctrl-C in the
terminal is the node's affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine

import grpc
import structlog

from agent_node.job import staging
from agent_node.job.conversation import log_target
from agent_node.job.job_logs import NODE_ID_ENV, configure_job_logs
from agent_node.job.outbox import Outbox
from agent_node.job.relay_client import Attachment, RelayClosedError, relay_channel
from agent_node.job.text_session import TextSession
from agent_node.job.tracing import Tracing
from agent_node.logs import bind_session
from agent_node.providers import new_context, warm_providers
from voxplane.clock import SystemClock
from voxplane.errors import VoxplaneError, to_status
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.node.v1 import relay_service_pb2_grpc as relay_grpc
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig, LlmConfig

INPUTS_MAX = 16

ServeCall = grpc.aio.StreamStreamCall[relay_pb2.ServeTextRequest, relay_pb2.ServeTextResponse]

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def main() -> None:
    """Run one session."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_job_logs()
    _warm_up()
    asyncio.run(_run())
    logging.shutdown()
    os._exit(0)  # nothing is left to do, and taking the interpreter down would last half a second


def _warm_up() -> None:
    """Pay for what is slow the first time before a session waits for it."""
    warm_providers()
    config = AgentConfig(llm_config=LlmConfig(provider="offline"))
    config.prompt_config.instructions = "{{ session_id }}"
    config.schema_config.fields.add(field_name="reply", field_type="string", required=True)
    staging.check(config)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    serving = asyncio.create_task(_serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, stopping):
        task.cancel()
    await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        return  # the loop has ended before


async def _serve() -> None:
    async with relay_channel() as channel:
        call: ServeCall = relay_grpc.RelayServiceStub(channel).ServeText(wait_for_ready=True)
        try:
            await call.write(relay_pb2.ServeTextRequest(ready=relay_pb2.TextJobReady(pid=os.getpid())))
            first = await call.read()
            if isinstance(first, relay_pb2.ServeTextResponse) and first.HasField("open"):
                await _serve_session(channel, call, first.open)
        except grpc.aio.AioRpcError as error:
            _log.info("the relay is gone", code=error.code().name)
        finally:
            call.cancel()


async def _serve_session(channel: grpc.aio.Channel, call: ServeCall, caller: relay_pb2.CallerContext) -> None:
    bind_session(
        tenant_id=caller.tenant_id,
        agent=caller.agent_id,
        session_id=caller.session_id,
        user_id=caller.user_id or None,
    )
    outbox: Outbox[relay_pb2.ChatResponse] = Outbox()
    sending = asyncio.create_task(_send(call, outbox))
    try:
        await _run_session(channel, caller, outbox, _inputs(call))
    except VoxplaneError as error:
        outbox.put(relay_pb2.ChatResponse(error=to_status(error)))
    except RelayClosedError as error:
        outbox.put(relay_pb2.ChatResponse(error=error.status))
    finally:
        outbox.close()
        await asyncio.wait({sending})
        _log.info("session ended")


async def _run_session(
    channel: grpc.aio.Channel,
    caller: relay_pb2.CallerContext,
    outbox: Outbox[relay_pb2.ChatResponse],
    inputs: AsyncIterator[str],
) -> None:
    """Until the user has left. Raises VoxplaneError if the session cannot
    start, and RelayClosedError if the node gives up the agent's bundle."""
    hello = relay_pb2.JobHello(caller=caller, kind=session_pb2.SESSION_KIND_TEXT)
    async with Attachment(channel, hello) as attachment:
        context = new_context()
        session = TextSession(
            caller,
            staging.Builder(caller, context, on_availability=lambda change: session.availability(change)),
            SystemClock(),
            outbox=outbox,
            link=attachment,
            on_target=log_target,
            tracing=Tracing(caller, context.secrets),
            node_id=os.environ.get(NODE_ID_ENV, ""),
        )
        attachment.on_command = session.command
        attachment.on_follow_refused = session.follow_refused
        try:
            await _first_of(_follow(attachment, session), _talk(session, inputs), session.until_ended())
        finally:
            await session.aclose()


async def _first_of(*works: Coroutine[None, None, None]) -> None:
    """Run until one has ended, end the others, and raise what one raised."""
    tasks = {asyncio.create_task(work) for work in works}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _follow(attachment: Attachment, session: TextSession) -> None:
    async for delivery in attachment:
        session.deliver(delivery)


async def _talk(session: TextSession, inputs: AsyncIterator[str]) -> None:
    await session.start()
    async for text in inputs:
        await session.take(text)


async def _inputs(call: ServeCall) -> AsyncIterator[str]:
    while isinstance(response := await call.read(), relay_pb2.ServeTextResponse):
        if response.HasField("input"):
            yield response.input.text


async def _send(call: ServeCall, outbox: Outbox[relay_pb2.ChatResponse]) -> None:
    try:
        async for message in outbox:
            await call.write(relay_pb2.ServeTextRequest(chat=message))
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        outbox.close()  # the reader sees why


if __name__ == "__main__":
    main()
