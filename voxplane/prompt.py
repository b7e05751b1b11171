"""Prompts are Liquid templates over declared variables, rendered in bounds.

Every variable that a template names must be declared in dynamic_vars or be a
builtin, also in branches that are not taken, so that what is missing is found
when the config is written and not when the call comes. Messages name the
variable and the line, and never repeat the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from liquid import BoundTemplate, Environment, StrictUndefined
from liquid.exceptions import LiquidError, ResourceLimitError

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

LOOP_ITERATIONS_MAX = 1_000
OUTPUT_BYTES_MAX = 128 * 1024
NAMESPACE_BYTES_MAX = 64 * 1024
NESTING_MAX = 20
TEMPLATES_CACHED_MAX = 256

BUILTINS = ("tenant_id", "agent_id", "session_id", "user_id")
PATH = "prompt_config.instructions"


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The text, and the variables that had no value of the caller's, with the
    defaults that were used."""

    text: str
    defaulted: dict[str, str]


class _Templates(Environment):
    loop_iteration_limit = LOOP_ITERATIONS_MAX
    output_stream_limit = OUTPUT_BYTES_MAX
    local_namespace_limit = NAMESPACE_BYTES_MAX
    context_depth_limit = NESTING_MAX


_TEMPLATES = _Templates(undefined=StrictUndefined, strict_filters=True)
for _tag in ("include", "render"):
    del _TEMPLATES.tags[_tag]


def check_prompt(prompt: agent_config_pb2.PromptConfig) -> None:
    """Find what would fail in a call: syntax, variables that are not declared,
    and limits. Raises VoxplaneError(INVALID_PROMPT) with a violation each."""
    template = _parse(prompt.instructions)
    declared = {*prompt.dynamic_vars, *BUILTINS}
    missing: list[Violation] = []
    for name, uses in template.analyze().globals.items():
        if name not in declared:
            line = _line(prompt.instructions, uses[0].span.index)
            missing.append(Violation(PATH, f"line {line}: variable {name!r} is not in dynamic_vars"))
    if missing:
        raise _invalid(missing)
    render_prompt(prompt, {}, {})


def render_prompt(
    prompt: agent_config_pb2.PromptConfig, variables: Mapping[str, str], builtins: Mapping[str, str]
) -> RenderedPrompt:
    """The instructions with the caller's variables; those that are not given
    take their defaults, and builtins win over both.

    Raises VoxplaneError(INVALID_PROMPT).
    """
    template = _parse(prompt.instructions)
    values: dict[str, str] = dict.fromkeys(BUILTINS, "")
    values |= dict(prompt.dynamic_vars) | dict(variables) | dict(builtins)
    try:
        text = template.render(values)
    except LiquidError as error:
        raise _invalid([Violation(PATH, _describe(error))]) from None
    except RecursionError:
        raise _invalid([Violation(PATH, "nested too deeply")]) from None
    named = template.analyze().globals
    defaulted = {
        name: default
        for name, default in prompt.dynamic_vars.items()
        if name in named and name not in variables and name not in builtins
    }
    return RenderedPrompt(text, defaulted)


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _parse(instructions: str) -> BoundTemplate:
    try:
        return _TEMPLATES.from_string(instructions)
    except LiquidError as error:
        raise _invalid([Violation(PATH, _describe(error))]) from None
    except RecursionError:
        raise _invalid([Violation(PATH, "nested too deeply")]) from None


def _describe(error: LiquidError) -> str:
    token = error.token
    where = f"line {_line(token.source, token.start_index)}: " if token is not None else ""
    if isinstance(error, ResourceLimitError):
        return (
            f"{where}a limit is exceeded: at most {LOOP_ITERATIONS_MAX} loop iterations, "
            f"{OUTPUT_BYTES_MAX} bytes of output, {NAMESPACE_BYTES_MAX} bytes of variables, "
            f"{NESTING_MAX} levels"
        )
    reason = str(error.args[0]) if error.args else "not a valid template"
    return f"{where}{reason}"


def _line(source: str, index: int) -> int:
    return source.count("\n", 0, max(index, 0)) + 1


def _invalid(violations: list[Violation]) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_PROMPT,
        f"the prompt cannot be rendered: {violations[0].description}",
        violations=violations,
    )
