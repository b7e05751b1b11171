"""Prompts are Liquid templates over declared variables, rendered in bounds.

Every variable that a template names must have a value wherever the rendering
may come, also in branches that are not taken, so that what is missing is found
when the config is written and not when the call comes. Messages name the
variable and the line, and never repeat the template or a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from liquid.exceptions import (
    FilterArgumentError,
    FilterValueError,
    LiquidError,
    LiquidSyntaxError,
    LiquidTypeError,
    LocalNamespaceLimitError,
    LoopIterationLimitError,
    OutputStreamLimitError,
    ResourceLimitError,
    UndefinedError,
)

from voxplane.errors import Violation, VoxplaneError
from voxplane.template import (
    BLOCK_WORDS,
    FILTERS,
    LOOP_ITERATIONS_MAX,
    NAMESPACE_BYTES_MAX,
    NESTING_MAX,
    OUTPUT_BYTES_MAX,
    TAGS,
    Template,
    TemplateError,
    read_template,
)
from voxplane.template_check import mistakes
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

TEMPLATES_CACHED_MAX = 256
VIOLATIONS_MAX = 20

BUILTINS = ("tenant_id", "agent_id", "session_id", "user_id")
"""Variables that every call has."""
PATH = "prompt_config.instructions"
UTF8_BYTES_MAX = 4
"""Of a character."""
SHORT_BYTES_MAX = 20 * 1024
SHORT_TAGS_MAX = 32
SHORT_TAG_CHARS_MAX = 1_000
_SHORT_TAG = re.compile(rf"\{{[{{%].{{0,{SHORT_TAG_CHARS_MAX}}}?[%}}]\}}", re.DOTALL)
_OPENING = re.compile(r"\{[{%]")
_NAME_TAG = re.compile(r"\{\{-?\s*([A-Za-z_]\w*)\s*-?\}\}", re.ASCII)
_LONG_WORK = re.compile(
    r"\.\.|\b(?:for|split|join|sort|sort_natural|uniq|compact|concat|reverse|replace|replace_first|remove|times|date)\b"
)
_ANY_CALL = {name: f"a-{name}" for name in BUILTINS}

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\[.*\]", re.DOTALL)
_LIMITS: Mapping[type[ResourceLimitError], str] = {
    LoopIterationLimitError: f"more than {LOOP_ITERATIONS_MAX} loop iterations, or a longer range",
    OutputStreamLimitError: f"more than {OUTPUT_BYTES_MAX} bytes of text",
    LocalNamespaceLimitError: f"more than {NAMESPACE_BYTES_MAX} bytes in assigned variables",
}
_NESTED = f"nested more than {NESTING_MAX} deep, or an expression is too long"


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """The text, and the variables that had no value of the caller's, with the
    defaults that were used."""

    text: str
    defaulted: dict[str, str]


def is_long_to_check(prompt: agent_config_pb2.PromptConfig) -> bool:
    """Whether check_prompt may take more than a few milliseconds: a long text,
    much in tags, or what makes or walks lists."""
    if prompt.ByteSize() > SHORT_BYTES_MAX:
        return True
    openings = _openings(prompt.instructions)
    if openings > SHORT_TAGS_MAX:
        return True
    tags = _SHORT_TAG.findall(prompt.instructions)
    if len(tags) != openings or sum(map(len, tags)) > SHORT_TAG_CHARS_MAX:
        return True
    return any(_LONG_WORK.search(tag) for tag in tags)


def check_prompt(prompt: agent_config_pb2.PromptConfig) -> None:
    """Find what would fail in a call: syntax, variables without a value,
    unknown filters, and limits, by a rendering with the defaults.

    Raises VoxplaneError(INVALID_PROMPT) with a violation each.
    """
    source = prompt.instructions
    if _has_only_names(prompt):
        return
    template = _read(source)
    found = list(mistakes(template, {*prompt.dynamic_vars, *BUILTINS}))
    if found:
        raise _invalid([_violation(source, index, said) for index, said in sorted(found)])
    _rendered(source, prompt.dynamic_vars, {}, _ANY_CALL)


def _has_only_names(prompt: agent_config_pb2.PromptConfig) -> bool:
    """Whether the tags are names of variables and nothing else, and few: then
    nothing can fail, and it need not be read."""
    source = prompt.instructions
    openings = _openings(source)
    if openings > SHORT_TAGS_MAX or "{{{" in source:
        return False
    names = _NAME_TAG.findall(source)
    given = prompt.dynamic_vars if not names else {**prompt.dynamic_vars, **_ANY_CALL}
    return (
        len(names) == openings
        and all(name in given and _is_a_name(name) for name in names)
        and UTF8_BYTES_MAX * (len(source) + sum(len(given[name]) for name in names)) <= OUTPUT_BYTES_MAX
    )


def _openings(source: str) -> int:
    return len(_OPENING.findall(source))


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _is_a_name(name: str) -> bool:
    """Whether Liquid takes the word for a variable's name, and not for one of
    its own words."""
    try:
        return list(read_template(f"{{{{ {name} }}}}").analyze().globals) == [name]
    except (TemplateError, LiquidError):
        return False


def render_prompt(
    prompt: agent_config_pb2.PromptConfig, variables: Mapping[str, str], builtins: Mapping[str, str]
) -> RenderedPrompt:
    """The instructions with the caller's variables; those that are not given
    take their defaults, and builtins win over both.

    Raises VoxplaneError(INVALID_PROMPT).
    """
    source = prompt.instructions
    text = _rendered(source, prompt.dynamic_vars, variables, builtins)
    named = _named(source)
    defaulted = {
        name: default
        for name, default in prompt.dynamic_vars.items()
        if name in named and name not in variables and name not in BUILTINS and name not in builtins
    }
    return RenderedPrompt(text, defaulted)


def _rendered(
    source: str, defaults: Mapping[str, str], variables: Mapping[str, str], builtins: Mapping[str, str]
) -> str:
    template = _read(source)
    values: dict[str, str] = dict(defaults) | dict(variables)
    values |= dict.fromkeys(BUILTINS, "") | dict(builtins)
    try:
        return template.render(values)
    except LiquidError as error:
        raise _invalid([_of_liquid(source, error)]) from None
    except RecursionError:
        raise _invalid([Violation(PATH, _NESTED)]) from None
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError):
        # filters raise these on values that they do not expect
        raise _invalid([Violation(PATH, "a filter cannot take what it is given")]) from None


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _read(source: str) -> Template:
    try:
        return read_template(source)
    except TemplateError as error:
        raise _invalid([_violation(source, error.index, error.description)]) from None
    except LiquidError as error:
        raise _invalid([_of_liquid(source, error)]) from None
    except RecursionError:
        raise _invalid([Violation(PATH, _NESTED)]) from None


@lru_cache(maxsize=TEMPLATES_CACHED_MAX)
def _named(source: str) -> frozenset[str]:
    """The variables that the template takes from outside."""
    return frozenset(_read(source).analyze().globals)


def _of_liquid(source: str, error: LiquidError) -> Violation:
    word = error.token.value if error.token is not None and _WORD.fullmatch(error.token.value) else ""
    match error:
        case ResourceLimitError():
            said = f"the template exceeds a limit: {_LIMITS.get(type(error), 'too much work')}"
            if type(error).__name__ in ("BlockNestingError", "ContextDepthError"):
                said = _NESTED
        case UndefinedError():
            said = f"variable {word!r} has no value" if word else "a variable has no value"
        case FilterArgumentError() | FilterValueError() | LiquidTypeError():
            said = f"filter {word!r}" if word in FILTERS else "a filter"
            said += " cannot take what it is given"
        case LiquidSyntaxError():
            said = _QUOTED.sub(_known, str(error.message))
        case _:
            said = "cannot be read" if error.token is None else "cannot be rendered"
            said = _NESTED if isinstance(error.__cause__, RecursionError) else said
    return _violation(source, error.token.start_index if error.token is not None else -1, said)


def _known(quoted: re.Match[str]) -> str:
    """A quoted word if it is Liquid's; any other may be the template's."""
    return quoted[0] if quoted[0][1:-1] in TAGS | BLOCK_WORDS else "…"


def _violation(source: str, index: int, said: str) -> Violation:
    where = f"line {source.count(chr(10), 0, index) + 1}: " if index >= 0 else ""
    return Violation(PATH, f"{where}{said}")


def _invalid(violations: list[Violation]) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_PROMPT,
        f"the prompt cannot be rendered: {violations[0].description}",
        violations=violations[:VIOLATIONS_MAX],
    )
