"""Liquid as prompts may use it: no files, no clock but by `date`, bounded work.

Parsing and rendering run where sessions and streams are served, and templates
are written by tenants, so each step has a bound: the delimiters are paired
before Liquid's own reader sees them (it is quadratic in unclosed ones), loops
and filters draw on one budget, and ranges are short.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, cast

from liquid import BoundTemplate, Environment, RenderContext, StrictUndefined
from liquid.builtin.expressions.logical import ContainsExpression
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.exceptions import LoopIterationLimitError, ResourceLimitError
from liquid.expression import Expression
from liquid.lex import (
    _tokenize_template,  # pyright: ignore[reportPrivateUsage]
    compile_liquid_rules,
)
from liquid.token import Token

LOOP_ITERATIONS_MAX = 1_000
"""Of all loops of a template together."""
OUTPUT_BYTES_MAX = 128 * 1024
NAMESPACE_BYTES_MAX = 64 * 1024
"""Of all values that a template assigns and captures."""
NESTING_MAX = 20
TAGS_MAX = 2_000
"""Count of {{ … }} and {% … %} in a template."""
ITEMS_MAX = 1_000
"""Of a list or range that a filter takes or makes."""
NUMBER_BITS_MAX = 256
WORK_MAX = 1_000_000
"""Characters that filters and comparisons read and write, and those of the tags
times the loop iterations; at worst about a tenth of a second."""
FILTER_WORK = 50
ASSIGN_WORK = 4
"""For each variable that is there already: each is weighed again."""
SORT_WORK = 4
"""For each item, beside the reading."""
DATE_CHARS_MAX = 100

TAGS = frozenset(
    ("#", "assign", "break", "capture", "case", "comment", "continue", "echo", "for", "if", "unless")
)
FILTERS = frozenset(
    (
        *("abs", "at_least", "at_most", "ceil", "divided_by", "floor", "minus", "modulo", "plus", "round"),
        *("append", "capitalize", "downcase", "lstrip", "prepend", "remove", "remove_first", "replace"),
        *("replace_first", "rstrip", "slice", "split", "strip", "strip_newlines", "truncate", "times"),
        *("compact", "concat", "first", "join", "last", "reverse", "sort", "sort_natural", "uniq"),
        *("date", "default", "size", "truncatewords", "upcase"),
    )
)
_INTERNAL_TAGS = frozenset(("content", "illegal", "output"))
BLOCK_WORDS = frozenset(
    (
        *("else", "elsif", "endcapture", "endcase", "endcomment", "endfor", "endif", "endraw", "endunless"),
        *("raw", "when"),
    )
)
_NAME_CHARS_SHOWN = 32
_OPENING = re.compile(r"\{[{%]")
_NAME = re.compile(r"-?\s*(#|\w+)")
_ENDS = {"raw": re.compile(r"\{%-?\s*endraw\s*-?%\}"), "comment": re.compile(r"\{%-?\s*endcomment\s*-?%\}")}


_TEXT = r".+?(?=((\{%|\{\{)(?P<rstrip>-?))|$)"
_SAME_TEXT = r".(?:[^{\n]++|\{(?![{%])|\n(?!\Z))*+(?=(\{[{%](?P<rstrip>-?))|$)"
"""Liquid's pattern of the text up to the next tag looks ahead at each character;
this one takes the same in a tenth of the time."""
_RULES = re.compile(compile_liquid_rules().pattern.replace(_TEXT, _SAME_TEXT), re.DOTALL)


class TemplateError(Exception):
    """Why a template cannot be read; `index` is where, in characters."""

    def __init__(self, index: int, description: str) -> None:
        super().__init__(description)
        self.index = index
        self.description = description


class BudgetError(ResourceLimitError):
    """The work is more than a template may make."""


class _Context(RenderContext):
    """Counts what a rendering costs."""

    __slots__ = ("iterations", "work")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.iterations = 0
        self.work = 0

    def spend(self, work: int) -> None:
        """Raises BudgetError."""
        self.work += work
        if self.work > WORK_MAX:
            raise BudgetError("work", token=None)

    def assign(self, key: str, val: Any) -> None:
        """Called for each assignment and capture."""
        self.spend(ASSIGN_WORK * len(self.locals))
        super().assign(key, val)

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Called at the start of each loop."""
        self.iterations += length
        if self.iterations > LOOP_ITERATIONS_MAX:
            raise LoopIterationLimitError("iterations", token=None)
        assert isinstance(self.template, Template)
        self.spend(length * self.template.tag_chars)


class Template(BoundTemplate):
    """A template that was read."""

    context_class = _Context
    tag_chars: int = 0


class _Liquid(Environment):
    block_nesting_limit = NESTING_MAX
    context_depth_limit = 2 * NESTING_MAX
    loop_iteration_limit = LOOP_ITERATIONS_MAX
    output_stream_limit = OUTPUT_BYTES_MAX
    local_namespace_limit = NAMESPACE_BYTES_MAX
    template_class = Template

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, strict_filters=True)
        for name in set(self.tags) - TAGS - _INTERNAL_TAGS:
            del self.tags[name]
        self.filters = {name: _bounded(name, self.filters[name]) for name in FILTERS}

    def tokenizer(self) -> Callable[[str], Iterator[Token]]:
        """Part of Environment's interface."""
        return partial(_tokenize_template, rules=_RULES)


class _NearEnd(Expression):
    """The end of a range, if it is not far from the start."""

    __slots__ = ("start", "stop")

    def __init__(self, start: Expression, stop: Expression) -> None:
        super().__init__(stop.token)
        self.start = start
        self.stop = stop

    def evaluate(self, context: RenderContext) -> object:
        low, high = self.start.evaluate(context), self.stop.evaluate(context)
        if _number(high) - _number(low) >= ITEMS_MAX:
            raise LoopIterationLimitError("range", token=self.token)
        return high

    def children(self) -> list[Expression]:
        return [self.stop]


class _Searched(Expression):
    """What is searched for something, its length counted."""

    __slots__ = ("searched",)

    def __init__(self, searched: Expression) -> None:
        super().__init__(searched.token)
        self.searched = searched

    def evaluate(self, context: RenderContext) -> object:
        value = self.searched.evaluate(context)
        assert isinstance(context, _Context)
        context.spend(_cost(value))
        return value

    def children(self) -> list[Expression]:
        return [self.searched]


def read_template(source: str) -> Template:
    """Raises TemplateError or LiquidError."""
    tag_chars = _pair_delimiters(source)
    template = _LIQUID.from_string(source)
    assert isinstance(template, Template)
    template.tag_chars = tag_chars
    for node in template.nodes:
        for expression in _all_expressions(template, node):
            if isinstance(expression, RangeLiteral):
                expression.stop = _NearEnd(expression.start, expression.stop)
            elif isinstance(expression, ContainsExpression):
                expression.left = _Searched(expression.left)
    return template


def expressions(expression: Expression) -> Iterator[Expression]:
    """The expression and all within it."""
    yield expression
    for child in expression.children():
        yield from expressions(child)


def _all_expressions(template: Template, node: Any) -> Iterator[Expression]:
    for expression in node.expressions():
        yield from expressions(expression)
    for child in node.children(RenderContext(template)):
        yield from _all_expressions(template, child)


def _pair_delimiters(source: str) -> int:
    """Count of the characters in tags. Raises TemplateError."""
    index = tags = chars = 0
    while opening := _OPENING.search(source, index):
        start = opening.start()
        closing = "}}" if opening[0] == "{{" else "%}"
        end = source.find(closing, start + 2)
        if end < 0:
            raise TemplateError(start, f"{opening[0]} without its {closing}")
        tags += 1
        if tags > TAGS_MAX:
            raise TemplateError(start, f"the template has more than {TAGS_MAX} tags")
        index = end + 2
        chars += index - start
        if closing == "%}":
            index = _after_block(source, start, index)
    return chars


def _after_block(source: str, start: int, index: int) -> int:
    """Behind the end of a block whose content is not read, else `index`."""
    found = _NAME.match(source, start + 2)
    name = found[1] if found else ""
    if name not in TAGS | BLOCK_WORDS:
        raise TemplateError(start, f"there is no tag {name[:_NAME_CHARS_SHOWN]!r}")
    if name not in _ENDS:
        return index
    end = _ENDS[name].search(source, index)
    if end is None:
        raise TemplateError(start, f"{name} without its end{name}")
    return end.end() if name == "raw" else index


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with what it reads and makes counted."""
    inner_context = getattr(function, "with_context", False)

    @wraps(function)
    def bounded(left: Any, *args: Any, context: _Context, **kwargs: Any) -> Any:
        given = (left, *args, *kwargs.values())
        context.spend(FILTER_WORK + sum(map(_cost, given)))
        if name == "replace":
            context.spend(_replaced(*(str(each) for each in given)))
        elif name == "uniq":
            context.spend(_length(left) ** 2)
        elif name in ("sort", "sort_natural"):
            context.spend(SORT_WORK * _length(left))
        elif name == "join":
            context.spend(_cost(left) * len(str(args[0])) if args else 0)
        elif name == "date" and len(str(left)) > DATE_CHARS_MAX:
            raise BudgetError("date", token=None)
        if inner_context:
            kwargs["context"] = context
        made = function(left, *args, **kwargs)
        context.spend(_cost(made))
        return made

    bounded.with_context = True  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    return bounded


def _replaced(left: str, old: str = "", new: str = "", *_: str) -> int:
    return left.count(old) * len(new)


def _cost(value: Any) -> int:
    """In characters. Raises BudgetError for what no filter may hold."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, range | list | tuple):
        items = cast("Sequence[Any]", value)
        if len(items) > ITEMS_MAX:
            raise BudgetError("items", token=None)
        return sum(map(_cost, items))
    if isinstance(value, int) and value.bit_length() > NUMBER_BITS_MAX:
        raise BudgetError("number", token=None)
    return 1


def _length(value: Any) -> int:
    """Count of the items of a list or range."""
    return len(cast("Sequence[Any]", value)) if isinstance(value, range | list | tuple) else 1


def _number(value: object) -> int:
    try:
        return int(value)  # pyright: ignore[reportArgumentType]
    except (ValueError, TypeError, OverflowError):
        return 0


_LIQUID = _Liquid()
