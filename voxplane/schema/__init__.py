"""A config's schema as strict JSON Schema, TypedDict and Pydantic model.

All three accept the same values: an object with every field and no other,
optional ones nullable; an integer may be written 1.0, a boolean is no number;
a newline at the very end of a text that its pattern or longest length does not
allow is dropped. The JSON Schema keeps to what models with strict structured
output take: lengths of strings are said by a pattern, defaults not at all.
"""

from voxplane.schema.compiled import CompiledSchema, compile_schema

__all__ = ["CompiledSchema", "compile_schema"]
