"""A config block as the arguments of a plugin's constructor."""

from __future__ import annotations

import builtins
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

from google.protobuf import json_format, struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from livekit.agents import types as livekit_types

from agent_node.providers.secrets import SecretResolver
from agent_node.providers.values import JSON, UnfitValueError, ValueType, value_type
from voxplane.errors import Violation, VoxplaneError
from voxplane.secrets import parse_reference
from voxplane.v1 import error_reason_pb2 as reason_pb2

_SECRET_NAME = re.compile(
    r"(^|_)(api_key|api_secret|access_key|secret|secret_key|secret_access_key|speech_key|speech_auth_token"
    r"|subscription_key|auth_token|access_token|session_token|entra_token|token|password|credentials)$"
)
_FILE_NAME = re.compile(r"(^|_)(file|path|dir|directory|folder|filename)$")


class Arguments:
    """Collects the arguments, and all that is wrong with them.

    `title` names the constructor in errors, such as "cartesia.TTS"; `path` is
    the block's, such as "tts_config.fallbacks[0]".
    """

    def __init__(self, constructor: Callable[..., Any], title: str, path: str) -> None:
        self._parameters = parameters_of(constructor)
        self._title = title
        self._path = path
        self._values: dict[str, Any] = {}
        self._own: set[str] = set()
        self._said_by: dict[str, str] = {}
        self._violations: list[Violation] = []

    def takes(self, name: str) -> bool:
        """Whether the constructor has the parameter."""
        return name in self._parameters

    def first(self, *names: str) -> str | None:
        """The first of the parameters that there is."""
        return next((name for name in names if name in self._parameters), None)

    def own(self, **values: Any) -> None:
        """Give what is the node's affair, and no option's."""
        self._values |= values
        self._own |= values.keys()

    def field(self, field: str, value: JSON, *names: str) -> None:
        """Give a field of the config as the first of the parameters that there
        is; None if the config does not set it."""
        name = self.first(*names)
        if name is not None:
            self._said_by[name] = field
        if value is None:
            return
        if name is None:
            self._wrong(field, f"{self._title} has no such setting")
            return
        self._give(field, name, value)

    def reserve(self, field: str, *names: str) -> None:
        """Leave parameters to a field of the config that takes effect elsewhere."""
        self._said_by |= {name: field for name in names if name in self._parameters}

    def options(self, options: struct_pb2.Struct, secrets: SecretResolver) -> None:
        """Give the options of the config, by the names of the parameters. A
        parameter that is a secret takes a reference. Call it last."""
        given: dict[str, JSON] = json_format.MessageToDict(options)
        for name, value in sorted(given.items()):
            self._option(name, value, secrets)

    def check(self, name: str, good: Callable[[Any], bool], said: str) -> None:
        """Refuse a value that is of the right type and still no good."""
        if name in self._values and not good(self._values[name]):
            self._wrong(self._said_by.get(name, f"options.{name}"), said)

    def finish(self) -> dict[str, Any]:
        """The arguments. Raises VoxplaneError(BUILD_FAILED) with all that is wrong."""
        if self._violations:
            first = self._violations[0]
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_BUILD_FAILED,
                f"{first.field}: {first.description}",
                violations=self._violations,
            )
        return self._values

    def _option(self, name: str, value: JSON, secrets: SecretResolver) -> None:
        field = f"options.{name}"
        if (said_by := self._said_by.get(name)) is not None:
            self._wrong(field, f"is said by {self._path}.{said_by}")
        elif name not in self._parameters:
            self._wrong(field, f"{self._title} has no such option; it has {self._choice()}")
        elif name in self._own or self._parameters[name] is None:
            self._wrong(field, "is the node's to give: a config cannot hold it")
        elif _FILE_NAME.search(name):
            self._wrong(field, "names a file of the node, which a config must not")
        elif _SECRET_NAME.search(name):
            self._secret(field, name, value, secrets)
        else:
            self._give(field, name, value)

    def _secret(self, field: str, name: str, value: JSON, secrets: SecretResolver) -> None:
        try:
            parse_reference(value if isinstance(value, str) else "")
        except ValueError as error:
            self._wrong(field, str(error))
            return
        self._give(field, name, secrets.resolve(cast("str", value), f"{self._path}.{field}"))

    def _give(self, field: str, name: str, value: JSON) -> None:
        kind = self._parameters[name]
        if kind is None:
            self._wrong(field, f"{self._title} takes it as something that a config cannot hold")
            return
        try:
            self._values[name] = kind.parse(value)
        except UnfitValueError as error:
            self._wrong(field, str(error))

    def _wrong(self, field: str, said: str) -> None:
        self._violations.append(Violation(f"{self._path}.{field}", said))

    def _choice(self) -> str:
        """The names that may stand in options."""
        free = [
            name
            for name, each in self._parameters.items()
            if each is not None
            and name not in self._said_by
            and name not in self._own
            and not _FILE_NAME.search(name)
        ]
        return ", ".join(sorted(free)) or "none"


def seconds_of(config: Message, field: str) -> float | None:
    """A field that is a duration, in seconds; None if it is not set."""
    duration: Duration = getattr(config, field)
    return duration.ToNanoseconds() / 1e9 if config.HasField(field) else None


@cache
def parameters_of(constructor: Callable[..., Any]) -> Mapping[str, ValueType | None]:
    """The parameters that can be given by name, and what they take; None is
    nothing that a config can say. Takes 1 to 10 ms the first time."""
    function = constructor.__init__ if isinstance(constructor, type) else constructor
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name: value_type(_hint(function, each.annotation))
        for name, each in inspect.signature(constructor).parameters.items()
        if each.kind not in skipped and not name.startswith("_")
    }


def _hint(function: Callable[..., Any], annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        # an annotation of installed code, as typing.get_type_hints evaluates it
        return eval(annotation, {}, _Names(function.__module__))
    except Exception:
        return object


class _Names(dict[str, Any]):
    """The names that an annotation of a module may use. What it imports for its
    type checker alone is not there when it runs, and is looked for elsewhere."""

    def __init__(self, module: str) -> None:
        super().__init__({**vars(typing), **vars(livekit_types), **vars(sys.modules[module])})
        self._package = module.rpartition(".")[0]

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        for module in (f"{self._package}.models", self._package):
            found = getattr(sys.modules.get(module), name, None)
            if found is not None:
                return found
        return object
