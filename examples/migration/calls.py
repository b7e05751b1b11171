"""What a module's code does that its classes do not tell: the first words, and
what an AgentSession is made with. The code is read, not run; expressions are
evaluated if they name nothing but what the module has."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

Notes = list[str]


class Unknown(Exception):
    """An expression's value is known only when it runs; the message is the expression."""


@dataclass(slots=True)
class Opening:
    """How a session begins. At most one of both is set."""

    said: str = ""
    told: str = ""


@dataclass(slots=True)
class Session:
    """The keywords of AgentSession, as far as they can be known."""

    keywords: dict[str, Any] = field(default_factory=dict[str, Any])


def opening_of(agent: Any, module: ModuleType, notes: Notes) -> Opening:
    """What is said first: by on_enter, else by the code that makes the session."""
    own = type(agent).__dict__.get("on_enter")
    trees = [_tree(own)] if own is not None else []
    trees += [
        each
        for each in ast.walk(_tree(module))
        if isinstance(each, ast.AsyncFunctionDef)
        and any(_called(call) == "AgentSession" for call in _calls(each))
    ]
    opening = Opening()
    for tree in trees:
        for call in _calls(tree):
            if _called(call) in ("say", "generate_reply"):
                _take(call, module, opening, notes)
    return opening


def _take(call: ast.Call, module: ModuleType, opening: Opening, notes: Notes) -> None:
    kind = _called(call)
    words = next((each.value for each in call.keywords if each.arg in ("text", "instructions")), None)
    if words is None and kind == "say" and call.args:
        words = call.args[0]
    shown = f"line {call.lineno}: {ast.unparse(call)}"
    try:
        text = value_of(words, module) if words is not None else None
    except Unknown:
        text = None
    if opening.said or opening.told:
        notes.append(f"{shown} is a second beginning, and left out")
    elif not isinstance(text, str):
        notes.append(f"{shown} is known only when it runs; write it as session_config.greeting")
    elif kind == "say":
        opening.said = text
    else:
        opening.told = text


def session_of(module: ModuleType, notes: Notes) -> Session:
    """What the module's AgentSession is made with."""
    found = [call for call in _calls(_tree(module)) if _called(call) == "AgentSession"]
    if len(found) > 1:
        notes.append(f"the module makes {len(found)} sessions; the first one is read")
    session = Session()
    for keyword in found[0].keywords if found else ():
        try:
            session.keywords[keyword.arg or "**"] = value_of(keyword.value, module)
        except Unknown as unknown:
            notes.append(f"AgentSession({keyword.arg}={unknown}) is known only when it runs")
    return session


def value_of(expression: ast.expr, module: ModuleType) -> Any:
    """The value of an expression over what the module has. Raises Unknown."""
    names = {each.id for each in ast.walk(expression) if isinstance(each, ast.Name)}
    known = vars(module).keys() | vars(builtins).keys()
    awaits = any(isinstance(each, ast.Await | ast.Yield | ast.Lambda) for each in ast.walk(expression))
    if awaits or not names <= known:
        raise Unknown(ast.unparse(expression))
    try:
        return eval(compile(ast.Expression(expression), "<the agent>", "eval"), vars(module))
    except Exception as error:  # whatever its constructors raise
        raise Unknown(f"{ast.unparse(expression)} ({type(error).__name__})") from error


def _tree(what: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(what)))


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls in a tree, in the order of the lines."""
    found = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
    yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))


def _called(call: ast.Call) -> str:
    """The last name of what is called: say of self.session.say()."""
    function = call.func.value if isinstance(call.func, ast.Subscript) else call.func
    match function:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""
