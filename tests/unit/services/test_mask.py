"""Masked updates of a config."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.services.decisions.mask import merge
from tests.unit.services.agent_requests import config
from voxplane.errors import Violation, VoxplaneError, to_status
from voxplane.v1 import agent_config_pb2

AgentConfig = agent_config_pb2.AgentConfig

LEAVES = (
    "agent_type",
    "prompt_config.instructions",
    "prompt_config.dynamic_vars",
    "llm_config.model",
    "llm_config.temperature",
    "llm_config.timeout",
    "schema_config.fields",
    "tracing_config.enabled",
)


@st.composite
def configs(draw: st.DrawFn) -> AgentConfig:
    """Configs with any of LEAVES set."""
    made = AgentConfig()
    if draw(st.booleans()):
        made.agent_type = draw(st.sampled_from(["", "sales", "support"]))
    if draw(st.booleans()):
        made.prompt_config.instructions = draw(st.sampled_from(["", "a", "b"]))
        made.prompt_config.dynamic_vars.update(
            draw(st.dictionaries(st.sampled_from("xyz"), st.text(max_size=2)))
        )
    if draw(st.booleans()):
        made.llm_config.model = draw(st.sampled_from(["", "m", "n"]))
        if draw(st.booleans()):
            made.llm_config.temperature = draw(st.sampled_from([0.0, 1.0]))
        if draw(st.booleans()):
            made.llm_config.timeout.seconds = draw(st.integers(0, 3))
    for name in draw(st.lists(st.sampled_from("pqr"), max_size=3)):
        made.schema_config.fields.add(field_name=name)
    if draw(st.booleans()):
        made.tracing_config.enabled = draw(st.booleans())
    return made


def leaf(message: AgentConfig, path: str) -> str:
    """What a config has at a path; the same for unset and absent."""
    block, _, name = path.partition(".")
    if not name:
        return str(getattr(message, block))
    inner = getattr(message, block)
    if name in {"temperature", "timeout"} and not inner.HasField(name):
        return "unset"
    value = getattr(inner, name)
    return str(sorted(value.items())) if name == "dynamic_vars" else str(value)


@given(base=configs(), change=configs(), paths=st.lists(st.sampled_from(LEAVES), min_size=1, unique=True))
def test_the_mask_alone_decides(base: AgentConfig, change: AgentConfig, paths: list[str]) -> None:
    """What the mask names is the change's, set or not; all else stays the base's."""
    before, asked = base.SerializeToString(), change.SerializeToString()
    merged = merge(base, change, paths, "update_mask")
    for path in LEAVES:
        assert leaf(merged, path) == leaf(change if path in paths else base, path)
    assert (base.SerializeToString(), change.SerializeToString()) == (before, asked)


@given(base=configs(), change=configs())
def test_a_mask_of_everything_that_differs_is_the_change(base: AgentConfig, change: AgentConfig) -> None:
    """Blocks are replaced whole, so that naming all of them gives the change."""
    blocks = [field.name for field in AgentConfig.DESCRIPTOR.fields]
    assert merge(base, change, blocks, "update_mask") == change


def test_no_mask_replaces_all() -> None:
    """Without paths, or with *, the config is replaced whole."""
    change = AgentConfig(agent_type="sales")
    assert merge(config(), change, [], "update_mask") == change
    assert merge(config(), change, ["*"], "update_mask") == change


def test_a_nested_message_is_cleared() -> None:
    """A message that the mask names and the change leaves unset is gone; its
    siblings stay."""
    merged = merge(config(), AgentConfig(), ["llm_config.temperature", "schema_config"], "update_mask")
    assert not merged.HasField("schema_config")
    assert not merged.llm_config.HasField("temperature")
    assert merged.llm_config.provider == "offline"


def test_clearing_below_what_is_not_there_makes_nothing() -> None:
    """Clearing a field of a block that the config does not have makes no block."""
    change = AgentConfig()
    change.tts_config.SetInParent()
    assert not merge(config(), change, ["tts_config.voice"], "update_mask").HasField("tts_config")


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("prompt", "AgentConfig has no field 'prompt'"),
        ("llm_config.heat", "LlmConfig has no field 'heat'"),
        ("agent_type.x", "nothing can follow a value, a list or a map, but 'x' does"),
        (
            "schema_config.fields.field_name",
            "nothing can follow a value, a list or a map, but 'field_name' does",
        ),
        ("prompt_config.dynamic_vars.name", "nothing can follow a value, a list or a map, but 'name' does"),
        ("", "AgentConfig has no field ''"),
        ("*", "* must stand alone"),
    ],
)
def test_bad_paths_are_named(path: str, fault: str) -> None:
    """A path that does not fit is refused with its own place in the mask."""
    with pytest.raises(VoxplaneError) as raised:
        merge(config(), config(), ["agent_type", path], "update_mask")
    assert raised.value.violations == (Violation("update_mask.paths[1]", fault),)


def test_the_answer_to_a_bad_mask_fits_the_trailers() -> None:
    """The longest bad mask that the contract allows is told in a few short violations."""
    paths = [f"{number}".ljust(200, "\U0001f600") for number in range(100)]
    with pytest.raises(VoxplaneError) as caught:
        merge(config(), config(), paths, "update_mask")
    assert len(to_status(caught.value).SerializeToString()) < 6_000
