"""The tour: twenty seconds from a committed change to a call that speaks it.

Nothing is staged: the steps call the control plane over gRPC and talk to the
node over its socket, and each checks what it shows. A step that does not
happen raises StepFailed, and the tour ends with its name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from rich.console import Console
from rich.markup import escape

from voxplane.cli.agents import history_table, versions
from voxplane.cli.chat.screen import Reply, milliseconds
from voxplane.cli.chat.session import ChatSession, open_session
from voxplane.cli.connect import CALL_SECONDS_MAX, Client, Server, open_channel
from voxplane.cli.demo_tenant import demo_configs
from voxplane.cli.failures import CommandError, failure_of, of_status
from voxplane.cli.nodes import convergence_lines
from voxplane.cli.tour_call import CallBroken, LiveKit, calling
from voxplane.cli.tour_screen import TourScreen
from voxplane.cli.tour_voice import VOICE_STEPS, NotHappened, VoiceStage, dispatch, new_room
from voxplane.names import LIVE
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import agent_pb2
from voxplane.v1 import agent_service_pb2 as pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_service_pb2 as nodes_pb2

AGENT = "interview"
USER = "Ada"
QUESTION = "I cut the nightly import from six hours to nine minutes."
INSTRUCTIONS = (
    "Be strict with {{ candidate_name }}, who wants {{ role }}: ask for numbers and proof. "
    "Stay on the candidate's own work."
)
NEW_FIELD = "follow_up_question"
STAGES = {"introduction", "experience", "problem_solving", "closing"}
EVENT_SECONDS_MAX = 20.0
RESTORE_SECONDS_MAX = 3.0
HISTORY_SHOWN = 5


class StepFailed(Exception):
    """What a step was to show did not happen."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tour is played."""

    server: str
    tenant: str
    socket: Path
    livekit: LiveKit | None = None
    no_livekit: str = ""
    """Why there is none."""
    log: Path = Path("caller.log")


@dataclass(slots=True)
class Stage:
    """What the steps work with and leave to each other."""

    client: Client
    session: ChatSession
    screen: TourScreen
    tenant: str
    first_version: int
    patience: float
    replies: list[tuple[Reply, relay_pb2.ChatTurn]] = field(
        default_factory=list[tuple[Reply, relay_pb2.ChatTurn]]
    )
    swaps: list[relay_pb2.ChatSwap] = field(default_factory=list[relay_pb2.ChatSwap])
    revision: int = 0

    async def talk(self, new: str = "") -> tuple[Reply, relay_pb2.ChatTurn]:
        """Say QUESTION, and the reply to it; a field `new` stands out."""
        self.screen.said(USER, QUESTION)
        await self.session.say(QUESTION)
        reply = Reply()
        while True:
            event = await self._next()
            reply.take(event)
            if event.HasField("error"):
                raise StepFailed(f"the reply failed: {of_status(event.error).message}")
            if event.HasField("turn"):
                break
        self.screen.reply(AGENT, reply, event.turn, new)
        self.replies.append((reply, event.turn))
        return self.replies[-1]

    async def swapped(self, revision: int) -> relay_pb2.ChatSwap:
        """The notice that the call runs the revision or a later one."""
        while not self.swaps or self.swaps[-1].revision < revision:
            await self._next()
        swap = self.swaps[-1]
        if swap.phase != sync_pb2.CONFIG_PHASE_APPLIED:
            raise StepFailed(f"the call refused the change: {of_status(swap.error).message}")
        self.screen.swap(swap)
        self.revision = swap.revision
        return swap

    async def _next(self) -> relay_pb2.ChatResponse:
        try:
            async with asyncio.timeout(self.patience):
                event = await self.session.receive()
        except TimeoutError:
            raise StepFailed(f"nothing came from the call within {self.patience:g} s") from None
        if event is None:
            raise StepFailed("the call has ended")
        if event.HasField("swap"):
            self.swaps.append(event.swap)
        return event


@dataclass(frozen=True, slots=True)
class Step:
    """A step by its title."""

    title: str
    play: Callable[[Stage], Awaitable[None]]


def check(happened: bool, otherwise: str) -> None:
    """Raises StepFailed if it did not happen."""
    if not happened:
        raise StepFailed(otherwise)


async def _a_call(stage: Stage) -> None:
    check(stage.session.opened.version == stage.first_version, "the call runs another version than live")
    reply, turn = await stage.talk()
    check(turn.version == stage.first_version, "the reply was made by another version")
    check(bool(reply.text), "the agent said nothing")
    fields = reply.fields
    check(fields.get("system_response") == reply.text.strip(), "what was spoken is not system_response")
    check(bool(fields.get("voice_instructions")), "the field voice_instructions is missing")
    check(fields.get("interview_stage") in STAGES, "interview_stage is none of its values")
    score = fields.get("credibility_score")
    check(isinstance(score, int) and 0 <= score <= 100, "credibility_score is not an integer of 0 to 100")


async def _new_instructions(stage: Stage) -> None:
    request = pb2.UpdateAgentConfigRequest(tenant_id=stage.tenant, agent_id=AGENT, note="stricter")
    request.config.prompt_config.instructions = INSTRUCTIONS
    request.update_mask.paths.append("prompt_config.instructions")
    stage.screen.call("UpdateAgentConfig", "while the call goes on")
    before = demo_configs()[AGENT].prompt_config.instructions
    stage.screen.change(_short(before), _short(INSTRUCTIONS))
    answer = await stage.client.agents.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)
    check(answer.version.number > stage.first_version, "no version was made")
    swap = await stage.swapped(answer.revision.number)
    check(swap.to_version == answer.version.number, "the call runs another version than was made")
    check("prompt_config.instructions" in swap.changed_fields, "the notice does not name the instructions")


async def _new_field(stage: Stage) -> None:
    request = pb2.AddSchemaFieldRequest(tenant_id=stage.tenant, agent_id=AGENT, note="one more field")
    request.field.field_name = NEW_FIELD
    request.field.field_type = "string"
    request.field.required = True
    request.field.description = "What to ask next."
    stage.screen.call("AddSchemaField", f"{NEW_FIELD}: string, required")
    answer = await stage.client.agents.AddSchemaField(request, timeout=CALL_SECONDS_MAX)
    swap = await stage.swapped(answer.revision.number)
    check(any(NEW_FIELD in path for path in swap.changed_fields), "the notice does not name the field")


async def _next_reply(stage: Stage) -> None:
    before, _ = stage.replies[-1]
    reply, turn = await stage.talk(NEW_FIELD)
    check(turn.version == stage.swaps[-1].to_version, "the reply was made by another version")
    check(NEW_FIELD not in before.fields, f"{NEW_FIELD} was there before")
    check(bool(reply.fields.get(NEW_FIELD)), f"the reply has no {NEW_FIELD}")
    check(reply.text != before.text, "the reply is the same as before")
    check("Be strict with" in reply.text, "the reply does not show the new instructions")
    stage.screen.fact(f"the same words, another reply, and {NEW_FIELD} in it")


async def _proof(stage: Stage) -> None:
    request = nodes_pb2.WaitForConvergenceRequest(
        tenant_id=stage.tenant, revision=stage.revision, min_nodes=1
    )
    stage.screen.call("WaitForConvergence", f"revision {stage.revision}")
    answer = await stage.client.nodes.WaitForConvergence(request, timeout=CALL_SECONDS_MAX)
    for line in convergence_lines(answer):
        stage.screen.show(line)
    check(answer.converged and len(answer.nodes) >= 1, "not every node runs the revision")
    applied = [milliseconds(swap.since_commit) for swap in stage.swaps]
    stage.screen.fact(f"from commit to the running call: {', '.join(applied)}")


async def _refusal(stage: Stage) -> None:
    request = pb2.UpdateAgentConfigRequest(tenant_id=stage.tenant, agent_id=AGENT)
    request.config.llm_config.temperature = 3
    request.config.llm_config.api_key = "not-a-reference"
    request.update_mask.paths.extend(["llm_config.temperature", "llm_config.api_key"])
    stage.screen.call("UpdateAgentConfig", "temperature 3, and a key where a reference belongs")
    try:
        await stage.client.agents.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)
    except grpc.aio.AioRpcError as error:
        failure = failure_of(error)
        assert failure is not None
        stage.screen.refused(failure)
        named = {violation.field for violation in failure.violations}
        check("config.llm_config.temperature" in named, "the refusal does not name the field")
        check("config.llm_config.api_key" in named, "the refusal does not name the key")
    else:
        raise StepFailed("a bad config was taken")
    found = await _live(stage.client, stage.tenant)
    check(found.version.number == stage.swaps[-1].to_version, "the refused call changed something")


async def _rollback(stage: Stage) -> None:
    while True:
        stage.screen.call("RollbackAlias", "live")
        answer = await stage.client.agents.RollbackAlias(
            pb2.RollbackAliasRequest(tenant_id=stage.tenant, agent_id=AGENT), timeout=CALL_SECONDS_MAX
        )
        if answer.version.number == stage.first_version:
            break
        check(answer.version.number > stage.first_version, "the rollback went too far")
    swap = await stage.swapped(answer.revision.number)
    check(swap.to_version == stage.first_version, "the call runs another version")
    before, _ = stage.replies[0]
    reply, turn = await stage.talk()
    check(turn.version == stage.first_version, "the reply was made by another version")
    check(reply.text == before.text, "the reply is not as before")
    check(set(reply.fields) == set(before.fields), "the fields are not as before")
    stage.screen.fact("word for word the first reply")


async def _history(stage: Stage) -> None:
    stage.screen.call("ListAgentVersions", "newest first; nothing is ever lost")
    found = await stage.client.agents.GetAgent(
        pb2.GetAgentRequest(tenant_id=stage.tenant, agent_id=AGENT), timeout=CALL_SECONDS_MAX
    )
    listed = [each async for each in versions(stage.client, stage.tenant, AGENT, HISTORY_SHOWN)]
    stage.screen.show(history_table(found.agent, listed))
    check(found.agent.aliases[LIVE].version == stage.first_version, "live is not where it was")
    check(len(listed) >= 3, "versions are missing")


STEPS = (
    Step("A call begins", _a_call),
    Step("Its instructions change", _new_instructions),
    Step("Its reply gets one more field", _new_field),
    Step("The next reply speaks the change", _next_reply),
    Step("The proof: who runs what", _proof),
    Step("A bad config is refused, by its fields", _refusal),
    Step("Back to what was before", _rollback),
    Step("The history", _history),
)


async def play(place: Place, console: Console, patience: float = EVENT_SECONDS_MAX) -> None:
    """Play all steps; those by voice where there is a LiveKit server. Raises
    CommandError that names the step that failed; one that waits longer than
    `patience` seconds for the call has failed."""
    screen = TourScreen(console)
    began = time.monotonic()
    async with open_channel(Server(place.server)) as channel:
        client = Client(channel)
        own = await _prepare(client, place.tenant)
        try:
            await _play(client, place, screen, patience)
            if place.livekit is not None:
                await _play_by_voice(client, place, place.livekit, screen, patience)
        finally:
            with suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(RESTORE_SECONDS_MAX):
                    await asyncio.shield(_restore(client, place.tenant, own))
    steps = len(STEPS) + (len(VOICE_STEPS) if place.livekit is not None else 0)
    lines = [f"all {steps} steps happened, in {time.monotonic() - began:.1f} s"]
    if place.no_livekit:
        lines.append(f"[dim]not by voice: {escape(place.no_livekit)}[/]")
    screen.end("The tour", lines)


async def _play(client: Client, place: Place, screen: TourScreen, patience: float) -> None:
    live = await _live(client, place.tenant)
    caller = relay_pb2.CallerContext(
        tenant_id=place.tenant, agent_id=AGENT, user_id=USER.lower(), variables={"candidate_name": USER}
    )
    async with open_session(place.socket, caller) as session:
        stage = Stage(client, session, screen, place.tenant, live.version.number, patience)
        for number, step in enumerate(STEPS, 1):
            await _step(number, step.title, step.play(stage), screen)
        await session.hang_up()


async def _play_by_voice(
    client: Client, place: Place, livekit: LiveKit, screen: TourScreen, patience: float
) -> None:
    live = await _live(client, place.tenant)
    metadata = dispatch(place.tenant, AGENT)
    async with calling(
        livekit, place.log, room=new_room(), metadata=metadata, user=USER.lower(), patience=patience
    ) as call:
        stage = VoiceStage(client, call, screen, place.tenant, AGENT, live.version.number)
        for number, step in enumerate(VOICE_STEPS, len(STEPS) + 1):
            await _step(number, step.title, step.play(stage), screen)


async def _step(number: int, title: str, playing: Awaitable[None], screen: TourScreen) -> None:
    """Play one step. Raises CommandError that names it."""
    screen.heading(number, title)
    failed = f"step {number} of the tour, “{title}”, did not happen"
    try:
        await playing
    except (StepFailed, NotHappened, CallBroken) as error:
        raise CommandError(f"{failed}: {error}") from None
    except grpc.aio.AioRpcError as error:
        raise CommandError(f"{failed}: {error.details()}") from error
    await screen.pause()


async def _live(client: Client, tenant: str) -> pb2.GetAgentVersionResponse:
    request = pb2.GetAgentVersionRequest(tenant_id=tenant, agent_id=AGENT)
    return await client.agents.GetAgentVersion(request, timeout=CALL_SECONDS_MAX)


async def _prepare(client: Client, tenant: str) -> agent_pb2.AgentVersion:
    """Publish the demo's config if live is another, and return what was live."""
    config = demo_configs()[AGENT]
    before = (await _live(client, tenant)).version
    if before.config != config:
        await client.agents.UpdateAgentConfig(
            pb2.UpdateAgentConfigRequest(
                tenant_id=tenant, agent_id=AGENT, config=config, note="the demo's config, for the tour"
            ),
            timeout=CALL_SECONDS_MAX,
        )
    return before


async def _restore(client: Client, tenant: str, own: agent_pb2.AgentVersion) -> None:
    """Point live at what it was before the tour."""
    if (await _live(client, tenant)).version.number != own.number:
        request = pb2.SetAliasRequest(tenant_id=tenant, agent_id=AGENT, alias=LIVE, version=own.number)
        await client.agents.SetAlias(request, timeout=CALL_SECONDS_MAX)


def _short(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= 66 else first[:65].rstrip() + "…"
