"""Random schemas, and random values that fit them or nearly do."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from voxplane.v1 import schema_pb2

PATTERNS = (
    r"^[a-c]{1,3}$",
    r"\d",
    r"^\w+@\w+\.(com|org)$",
    r"^$|^x",
    r"[^a-z]$",
    r"^.{2}$",
    r"(ab|c)*d?$",
    r"^\S+(\s\S+)*$",
    r"^[\s\S]*\.$",
    r"é",
)
SCALARS = ("string", "integer", "number", "boolean")

texts = st.one_of(
    st.text(max_size=6),
    st.text("abcdx1 .@\n\r\té\u2028\u00a0\u0660", max_size=6),
    st.sampled_from(["ab\n", "x\n\n", "a@b.com", "a@b.com\n", "\n", ""]),
)
numbers = st.one_of(
    st.integers(-5, 5),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, -0.0, 2.5, 1e300, 2.0**53, 2**53 + 1, 10**400]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, st.sampled_from(["1", "true", "null"]))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=5,
)

names = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,5}", fullmatch=True) | st.sampled_from(
    ["copy", "json", "model_dump", "model_config", "schema", "dict", "copy_", "fields", "validate", "mro"]
)


@st.composite
def fields(draw: st.DrawFn, name: str) -> schema_pb2.SchemaField:
    """A field as the contract allows it."""
    kind = draw(st.sampled_from([*SCALARS, "enum", "array", "object"]))
    field = schema_pb2.SchemaField(field_name=name, field_type=kind, required=draw(st.booleans()))
    limits = field.constraints
    match kind:
        case "string":
            choice = draw(st.integers(0, 2))
            if choice == 1:
                limits.pattern = draw(st.sampled_from(PATTERNS))
            elif choice == 2:
                _bounds(draw, limits, "min_length", "max_length", st.integers(0, 5))
        case "integer":
            _bounds(draw, limits, "minimum", "maximum", st.integers(-3, 3) | st.just(2.0**60))
        case "number":
            _bounds(draw, limits, "minimum", "maximum", st.floats(-3, 3) | st.sampled_from([1e300, -1e300]))
        case "enum":
            limits.enum_values.extend(draw(st.lists(texts.filter(bool), min_size=1, max_size=4, unique=True)))
        case "array":
            field.item_type = draw(st.sampled_from(SCALARS))
            _bounds(draw, limits, "min_items", "max_items", st.integers(0, 3))
        case "object":
            for inner in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
                field.properties.add(property_name=inner, property_type=draw(st.sampled_from(SCALARS)))
        case _:
            pass
    return field


def _bounds(draw: st.DrawFn, limits: schema_pb2.FieldConstraints, low: str, high: str, of: Any) -> None:
    least, most = sorted((draw(of), draw(of)))
    if draw(st.booleans()):
        setattr(limits, low, least)
    if draw(st.booleans()):
        setattr(limits, high, most)


@st.composite
def schemas(draw: st.DrawFn) -> schema_pb2.SchemaConfig:
    """A schema that compiles."""
    chosen = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return schema_pb2.SchemaConfig(fields=[draw(fields(name)) for name in chosen])


def fitting(field: schema_pb2.SchemaField) -> st.SearchStrategy[Any]:
    """Values of the field's type, mostly within its limits."""
    limits = field.constraints
    of = {"string": texts, "integer": numbers, "number": numbers, "boolean": st.booleans()}
    match field.field_type:
        case "enum":
            return st.sampled_from(list(limits.enum_values))
        case "array":
            return st.lists(of[field.item_type], max_size=4)
        case "object":
            return st.fixed_dictionaries({p.property_name: of[p.property_type] for p in field.properties})
        case "string":
            wanted = st.from_regex(limits.pattern) if limits.pattern else texts
            return wanted | wanted.map(lambda text: f"{text}\n") | texts
        case kind:
            return of[kind]


@st.composite
def schemas_and_replies(draw: st.DrawFn) -> tuple[schema_pb2.SchemaConfig, Any]:
    """A schema, and a reply that obeys it or misses it by little or by much."""
    schema = draw(schemas())
    if draw(st.integers(0, 9)) == 0:
        return schema, draw(values)
    reply = {field.field_name: draw(st.none() | fitting(field)) for field in schema.fields}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*reply, "extra", "copy_", "copy__"]))
        if draw(st.booleans()):
            reply.pop(name, None)
        else:
            reply[name] = draw(values)
    return schema, reply
