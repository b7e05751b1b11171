"""Finding, without rendering, what may go wrong when a template is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from liquid import RenderContext
from liquid.ast import BlockNode, Node
from liquid.builtin.expressions import FilteredExpression, Path
from liquid.builtin.expressions.primitive import IntegerLiteral, RangeLiteral
from liquid.builtin.tags.case_tag import CaseNode
from liquid.builtin.tags.for_tag import BreakNode, ContinueNode, ForNode
from liquid.builtin.tags.if_tag import IfNode
from liquid.builtin.tags.unless_tag import UnlessNode
from liquid.expression import Expression

from voxplane.template import FILTERS, ITEMS_MAX, Template, expressions

Mistake = tuple[int, str]
"""Where, in characters, and what."""


def mistakes(template: Template, given: set[str]) -> Iterator[Mistake]:
    """What may go wrong with the variables `given`, each a text, however they
    are set: in branches that are not taken, too."""
    context = RenderContext(template)
    bound = {name for node in template.nodes for name in _bound(node, context)}
    checker = _Checker(context, frozenset(given - bound), frozenset(bound))
    scope = set(given)
    for node in template.nodes:
        yield from checker.node(node, scope, in_loop=False)


def _bound(node: Node, context: RenderContext) -> Iterator[str]:
    """The names that the node and those within it give values to."""
    yield from map(str, node.template_scope())
    yield from map(str, node.block_scope())
    for child in node.children(context):
        yield from _bound(child, context)


@dataclass(frozen=True, slots=True)
class _Checker:
    """`scope` holds the names that surely have a value; a visited node adds its own."""

    context: RenderContext
    texts: frozenset[str]
    bound: frozenset[str]

    def node(self, node: Node, scope: set[str], in_loop: bool) -> Iterator[Mistake]:
        for expression in node.expressions():
            for each in expressions(expression):
                yield from self._expression(each, scope)
        match node:
            case IfNode() | UnlessNode() | CaseNode():
                yield from self._branches(node, scope, in_loop)
            case ForNode():
                names = {str(name) for name in node.block_scope()}
                yield from self._apart([node.block], scope | names, in_loop=True)
                yield from self._apart([node.default] if node.default else [], scope, in_loop)
            case BreakNode() | ContinueNode() if not in_loop:
                yield node.token.start_index, f"{node} outside of a loop"
            case _:
                for child in node.children(self.context):
                    yield from self.node(child, scope, in_loop)
        scope.update(str(name) for name in node.template_scope())

    def _branches(
        self, node: IfNode | UnlessNode | CaseNode, scope: set[str], in_loop: bool
    ) -> Iterator[Mistake]:
        """A name has a value behind the branches if it has in each, and one is sure to be taken."""
        branches = list(node.children(self.context))
        ends: list[set[str]] = []
        for branch in branches:
            end = set(scope)
            yield from self.node(branch, end, in_loop)
            ends.append(end)
        otherwise = branches[-1:] if isinstance(node, CaseNode) else [node.default]
        if any(isinstance(each, BlockNode) for each in otherwise):
            scope |= set[str].intersection(*ends)

    def _apart(self, nodes: list[BlockNode], scope: set[str], in_loop: bool) -> Iterator[Mistake]:
        """Nodes that may never be rendered."""
        inner = set(scope)
        for node in nodes:
            yield from self.node(node, inner, in_loop)

    def _expression(self, expression: Expression, scope: set[str]) -> Iterator[Mistake]:
        index = expression.token.start_index
        match expression:
            case Path():
                said = self._path(expression, scope)
                if said:
                    yield index, said
            case RangeLiteral(start=IntegerLiteral() as start):
                stop = next(iter(expression.stop.children()), expression.stop)
                if isinstance(stop, IntegerLiteral) and int(stop.value) - int(start.value) >= ITEMS_MAX:
                    yield index, f"a range of more than {ITEMS_MAX}"
            case FilteredExpression():
                for each in expression.filters or ():
                    if each.name not in FILTERS:
                        yield each.token.start_index, f"there is no filter {each.name[:63]!r}"
            case _:
                pass

    def _path(self, path: Path, scope: set[str]) -> str:
        head, *rest = path.path
        if not isinstance(head, str):
            return "a variable's name must be written out"
        if head not in scope:
            why = "may have no value here" if head in self.bound else "is not in dynamic_vars"
            return f"variable {head[:63]!r} {why}"
        if head in self.texts and rest and rest != ["size"]:
            return f"variable {head!r} is a text, and a text has nothing but size"
        return ""
