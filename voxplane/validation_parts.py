"""A config judged part by part, so that nothing is judged twice.

Most changes touch one block of a config, and the other blocks are what they
were. The rules:

- A part is known by the hash of its bytes, and only a good part is remembered.
- The parts of a config are its blocks, each by itself, but for those that are
  held against each other, by rules on AgentConfig or by the schema's compiler:
  they are one part (RELATED). So are the session's texts with the variables.
- A config is good if each of its parts is. What is wrong with one that is not
  is for violations_of_message and check_config to say, of the whole config.

All of it may be called on any thread.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import Message

from voxplane.errors import VoxplaneError
from voxplane.prompt import check_prompt, is_long_to_check
from voxplane.schema import compile_schema
from voxplane.secrets import secret_literals
from voxplane.session_texts import check_texts, texts_of
from voxplane.tools import check_tools, large_options
from voxplane.v1 import agent_config_pb2, schema_pb2
from voxplane.validation import violations_of_message

RELATED = frozenset(
    (
        "agent_type",
        "version",
        "schema_config",
        "tts_config",
        "frontend_config",
        "tools",
        "mcp_servers",
    )
)
"""The fields of AgentConfig that are judged together."""
GOOD_PARTS_MAX = 20_000
"""Hashes that are remembered, of about 200 bytes each."""
SHORT_PART_BYTES_MAX = 8 * 1024
SHORT_SCHEMA_FIELDS_MAX = 8
SHORT_PATTERN_CHARS_MAX = 100
"""Of all patterns of a schema."""


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a config, or an AgentConfig of the related ones."""

    message: Message
    hash: bytes

    @property
    def is_long(self) -> bool:
        """Whether to judge it may take more than a few milliseconds."""
        match self.message:
            case agent_config_pb2.PromptConfig():
                return is_long_to_check(self.message)
            case agent_config_pb2.AgentConfig(schema_config=schema) if _is_long_to_compile(schema):
                return True
            case agent_config_pb2.AgentConfig() if any(
                is_long_to_check(text) for _, text in texts_of(self.message)
            ):
                return True
            case _:
                return self.message.ByteSize() > SHORT_PART_BYTES_MAX


class _Remembered:
    """The newest hashes, up to a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hashes: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, key: bytes) -> bool:
        with self._lock:
            if key not in self._hashes:
                return False
            self._hashes.move_to_end(key)
            return True

    def add(self, key: bytes) -> None:
        with self._lock:
            self._hashes[key] = None
            self._hashes.move_to_end(key)
            if len(self._hashes) > self._most:
                self._hashes.popitem(last=False)


_GOOD = _Remembered(GOOD_PARTS_MAX)


def unjudged_parts(config: agent_config_pb2.AgentConfig) -> list[Part]:
    """The parts of the config that are not known to be good."""
    return [part for part in _parts(config) if not _GOOD.has(part.hash)]


def are_good(parts: Iterable[Part]) -> bool:
    """Judge the parts, and remember the good ones, up to the first that is
    not."""
    for part in parts:
        if not _is_good(part.message):
            return False
        _GOOD.add(part.hash)
    return True


def _parts(config: agent_config_pb2.AgentConfig) -> Iterator[Part]:
    related: list[bytes] = []
    for field, value in config.ListFields():
        encoded = _encoded(value)
        labelled = b"%d:%d:%b" % (field.number, len(encoded), encoded)
        if field.name == "session_config":
            texts = _only_texts(config)
            yield Part(texts, hashlib.sha256(texts.SerializeToString(deterministic=True)).digest())
        elif field.name in RELATED:
            related.append(labelled)
        else:
            yield Part(value, hashlib.sha256(labelled).digest())
    if related:
        yield Part(_only_related(config), hashlib.sha256(b"".join(related)).digest())


def _encoded(value: Message | str | Iterable[Message]) -> bytes:
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if isinstance(value, str):
        return value.encode()
    items = [item.SerializeToString(deterministic=True) for item in value]
    return b"".join(b"%d:%b" % (len(item), item) for item in items)


def _only_texts(config: agent_config_pb2.AgentConfig) -> agent_config_pb2.AgentConfig:
    made = agent_config_pb2.AgentConfig(session_config=config.session_config)
    made.prompt_config.dynamic_vars.update(config.prompt_config.dynamic_vars)
    return made


def _is_long_to_compile(schema: schema_pb2.SchemaConfig) -> bool:
    return (
        len(schema.fields) > SHORT_SCHEMA_FIELDS_MAX
        or sum(len(field.constraints.pattern) for field in schema.fields) > SHORT_PATTERN_CHARS_MAX
    )


def _only_related(config: agent_config_pb2.AgentConfig) -> agent_config_pb2.AgentConfig:
    made = agent_config_pb2.AgentConfig()
    made.CopyFrom(config)
    for field, _ in config.ListFields():
        if field.name not in RELATED:
            made.ClearField(field.name)
    return made


def _is_good(message: Message) -> bool:
    if violations_of_message(message) or secret_literals(message):
        return False
    try:
        match message:
            case agent_config_pb2.PromptConfig():
                check_prompt(message)
            case agent_config_pb2.AgentConfig():
                compile_schema(message.schema_config, first=message.tts_config.instruction_field)
                check_tools(message)
                check_texts(message)
            case _:
                return not any(large_options("", message))
    except VoxplaneError:
        return False
    return True
