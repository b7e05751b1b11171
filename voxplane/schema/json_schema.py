"""A schema's fields as strict JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from voxplane.schema.types import number_bounds, text_pattern
from voxplane.v1 import schema_pb2


def reply_schema(fields: Iterable[schema_pb2.SchemaField]) -> dict[str, Any]:
    """The JSON Schema of a reply with these fields, in their order."""
    return _object({field.field_name: _property(field) for field in fields})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _property(field: schema_pb2.SchemaField) -> dict[str, Any]:
    shape = _shape(field)
    if not field.required:
        shape["type"] = [shape["type"], "null"]
        if "enum" in shape:
            shape["enum"].append(None)
    if field.description:
        shape["description"] = field.description
    return shape


def _shape(field: schema_pb2.SchemaField) -> dict[str, Any]:
    limits = field.constraints
    match field.field_type:
        case "string":
            pattern = text_pattern(limits)
            return {"type": "string"} | ({"pattern": pattern.text} if pattern else {})
        case "enum":
            return {"type": "string", "enum": list(limits.enum_values)}
        case "integer" | "number":
            bounds = zip(("minimum", "maximum"), number_bounds(field), strict=True)
            return {"type": field.field_type} | {name: bound for name, bound in bounds if bound is not None}
        case "array":
            shape: dict[str, Any] = {"type": "array", "items": {"type": field.item_type}}
            if limits.HasField("min_items"):
                shape["minItems"] = limits.min_items
            if limits.HasField("max_items"):
                shape["maxItems"] = limits.max_items
            return shape
        case "object":
            return _object({p.property_name: _described(p) for p in field.properties})
        case _:
            return {"type": field.field_type}


def _described(its: schema_pb2.ObjectProperty) -> dict[str, Any]:
    shape: dict[str, Any] = {"type": its.property_type}
    return {**shape, "description": its.description} if its.description else shape
