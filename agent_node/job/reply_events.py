"""What the replies of an agent bring beside speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]
from pydantic import BaseModel

from agent_node.job.targets import Target
from voxplane.schema import CompiledSchema

PROBLEM_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class ReplyBegan:
    """A step of a reply is being made by `target`."""

    target: Target


@dataclass(frozen=True, slots=True)
class ReplyFieldPart:
    """A piece of a string field of the reply in flight, as it arrives."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class ReplyField:
    """A field of the reply in flight is complete; hidden ones never come here."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class ReplyDone:
    """The model has ended the reply that `target` made. Fields that are hidden
    are left out; `problem` is set if the reply was not as the schema wants it."""

    target: Target
    fields: Mapping[str, Any]
    problem: status_pb2.Status | None


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """The model gave no reply, or broke off."""

    target: Target
    error: status_pb2.Status


@dataclass(frozen=True, slots=True)
class ReplyCut:
    """The reply was interrupted while the model still made it; the fields that
    were told stay, no others come."""

    target: Target


ReplyEvent = ReplyBegan | ReplyFieldPart | ReplyField | ReplyDone | ReplyFailed | ReplyCut


def typed_reply(schema: CompiledSchema, fields: Mapping[str, Any]) -> BaseModel:
    """The fields as the schema's model. Raises ValueError, which names the
    wrong fields and repeats no value."""
    whole = schema.validate({name: fields.get(name) for name in (f.field_name for f in schema.fields)})
    return schema.model.model_construct(**whole)


def disobeys(error: ValueError) -> status_pb2.Status:
    """What typed_reply has found."""
    return not_as_wanted(f"the reply does not obey the schema: {error}")


def not_as_wanted(said: str) -> status_pb2.Status:
    """A reply that is not as its schema wants it; `said` quotes nothing of it."""
    return status_pb2.Status(code=code_pb2.DATA_LOSS, message=said[:PROBLEM_CHARS_MAX])
