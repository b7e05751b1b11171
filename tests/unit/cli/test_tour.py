"""The tour names the step that did not happen, and leaves the tenant as it was."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.cli.fake_node import FakeNode, listening, opened, said
from tests.unit.server.in_process import Served, served
from voxplane.cli.connect import Client
from voxplane.cli.demo_tenant import demo_configs, load_demo
from voxplane.cli.failures import CommandError
from voxplane.cli.tour import AGENT, Place, play
from voxplane.node.v1 import relay_service_pb2 as pb2
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.validation import check_config, violations_of_message

TENANT = "demo"
PATIENCE_SECONDS = 0.2


def first_reply(text: str) -> list[pb2.ChatResponse]:
    """A reply as the demo's interviewer gives it."""
    events = said(
        f"I heard {text}", version=1, voice_instructions="calm", interview_stage="closing", system_response=""
    )
    turn = events[-1].turn
    turn.fields["system_response"] = turn.text
    turn.fields["credibility_score"] = 50
    return [event for event in events if not event.HasField("field")]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Served]:
    """A control plane with the demo tenant."""
    async with served(tmp_path) as it:
        await load_demo(Client(it.channel), TENANT)
        yield it


async def live(running: Served) -> agents_pb2.GetAgentVersionResponse:
    """What live points at."""
    return await running.agents.GetAgentVersion(
        agents_pb2.GetAgentVersionRequest(tenant_id=TENANT, agent_id=AGENT)
    )


async def failure(node: FakeNode, folder: Path) -> tuple[str, str]:
    """What the tour says when it fails, and what it has shown."""
    screen = io.StringIO()
    async with listening(node, folder) as socket:
        place = Place(f"unix:{folder}/s.sock", TENANT, socket)
        with pytest.raises(CommandError) as raised:
            await play(place, Console(file=screen, width=80), PATIENCE_SECONDS)
    return raised.value.message, screen.getvalue()


async def test_a_call_that_does_not_follow_is_found(running: Served, tmp_path: Path) -> None:
    """A node that never applies the change fails step 2, by name, and live is
    back at what it was."""
    message, shown = await failure(FakeNode(first_reply, first=[opened(1)]), tmp_path)
    assert message.startswith("step 2 of the tour, “Its instructions change”, did not happen: nothing came")
    assert "1  A call begins" in shown
    assert "3  " not in shown
    found = await live(running)
    assert (found.version.number, found.revision.number) == (1, 4)


async def test_a_reply_without_its_fields_is_found(running: Served, tmp_path: Path) -> None:
    """A reply that lacks a field fails step 1."""
    node = FakeNode(lambda text: said("hello", version=1, system_response="hello"), first=[opened(1)])
    message, _ = await failure(node, tmp_path)
    assert message.endswith("did not happen: the field voice_instructions is missing")


async def test_the_user_s_own_version_is_kept(running: Served, tmp_path: Path) -> None:
    """Where live is no longer the demo's config the tour plays on the demo's, and
    gives back what was there."""
    own = agents_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
    own.config.prompt_config.instructions = "Mine."
    own.update_mask.paths.append("prompt_config.instructions")
    await running.agents.UpdateAgentConfig(own)
    await failure(FakeNode(first_reply, first=[opened(3)]), tmp_path)
    assert (await live(running)).version.config.prompt_config.instructions == "Mine."


async def test_the_demo_tenant_is_loaded_once(running: Served) -> None:
    """Loading it again changes nothing."""
    assert await load_demo(Client(running.channel), TENANT) == []
    assert (await live(running)).revision.number == len(demo_configs())


def test_the_demo_s_configs_are_valid() -> None:
    """Every file of the demo passes all checks of a config, and needs no key."""
    configs = demo_configs()
    assert AGENT in configs
    for config in configs.values():
        assert not violations_of_message(config)
        check_config(config)
        assert config.llm_config.provider == "offline"
