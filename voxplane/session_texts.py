"""What an agent says of itself: greeting, goodbye and announcements are templates
like its instructions, over the same variables."""

from __future__ import annotations

from collections.abc import Iterator

from voxplane.errors import Violation, VoxplaneError
from voxplane.prompt import check_prompt
from voxplane.v1 import agent_config_pb2

TEXTS = ("greeting", "greeting_instructions", "goodbye")


def texts_of(
    config: agent_config_pb2.AgentConfig,
) -> Iterator[tuple[str, agent_config_pb2.PromptConfig]]:
    """Each text that is set, by its path in AgentConfig, as a prompt."""
    session = config.session_config
    for name in TEXTS:
        if text := getattr(session, name):
            yield f"session_config.{name}", text_prompt(config, text)
    for index, transfer in enumerate(session.transfers):
        if transfer.announcement:
            path = f"session_config.transfers[{index}].announcement"
            yield path, text_prompt(config, transfer.announcement)


def text_prompt(config: agent_config_pb2.AgentConfig, text: str) -> agent_config_pb2.PromptConfig:
    """A text of the config as a prompt with the config's variables."""
    return agent_config_pb2.PromptConfig(instructions=text, dynamic_vars=config.prompt_config.dynamic_vars)


def check_texts(config: agent_config_pb2.AgentConfig) -> None:
    """Find what would fail in a call, as check_prompt does. Raises
    VoxplaneError(INVALID_PROMPT) with a violation each."""
    failed: list[VoxplaneError] = []
    violations: list[Violation] = []
    for path, text in texts_of(config):
        try:
            check_prompt(text)
        except VoxplaneError as error:
            failed.append(error)
            violations += [Violation(path, each.description) for each in error.violations]
    if failed:
        raise VoxplaneError(failed[0].reason, "a text cannot be rendered", violations=violations)
