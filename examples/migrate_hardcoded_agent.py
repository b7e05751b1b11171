"""Turns a hard-coded LiveKit agent into a Voxplane config.

    python examples/migrate_hardcoded_agent.py examples/hardcoded/pte_interview.py:PteInterviewer
    python examples/migrate_hardcoded_agent.py MODULE.py:CLASS --agent pte --write

The class is imported and made, and its instructions, models and the TypedDict
of its replies are read; nothing of it is changed, and no vendor is called. What
would be written is shown first, as the difference to what the agent has now.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import grpc
import typing_extensions
from pydantic.fields import FieldInfo

from voxplane.configdiff import field_changes
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField

PLUGIN = re.compile(r"livekit\.plugins\.(\w+)")
TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
KEYS = {"openai": "OPENAI_API_KEY", "deepgram": "DEEPGRAM_API_KEY"}


def main() -> int:
    """Show the difference, and write it if that is wanted."""
    options = _options()
    path, _, name = options.source.partition(":")
    module = load(Path(path))
    config = config_of(module, name, reply=options.reply, spoken=options.spoken)
    with grpc.insecure_channel(options.server) as channel:
        stub = agents_grpc.AgentServiceStub(channel)
        current = present(stub, options.tenant, options.agent)
        changes = field_changes(current or AgentConfig(), config)
        for change in changes:
            print(f"{change.path}\n  - {change.old!r}\n  + {change.new!r}")
        if not changes:
            print("nothing to change")
        elif not options.write:
            print(f"\nchanges: {len(changes)}; --write makes them")
        elif current is None:
            request = agents_pb2.CreateAgentRequest(
                tenant_id=options.tenant, agent_id=options.agent, config=config, note=f"from {name}"
            )
            print(f"created, revision {stub.CreateAgent(request).revision.number}")
        else:
            request = agents_pb2.UpdateAgentConfigRequest(
                tenant_id=options.tenant, agent_id=options.agent, config=config, note=f"from {name}"
            )
            request.update_mask.paths.extend(field.name for field, _ in config.ListFields())
            print(f"updated, revision {stub.UpdateAgentConfig(request).revision.number}")
    return 0


def load(path: Path) -> ModuleType:
    """The module of a file, imported."""
    for variable in KEYS.values():
        # Plugins want a key when they are made; it is not used.
        os.environ.setdefault(variable, "not-used")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    found.loader.exec_module(module)
    return module


def config_of(module: ModuleType, name: str, *, reply: str = "", spoken: str = "") -> AgentConfig:
    """The config of an agent's class. `reply` names the TypedDict of its
    replies where the module has several, `spoken` the field that is spoken."""
    agent = getattr(module, name)()
    config = AgentConfig()
    config.prompt_config.instructions = agent.instructions
    for model, block in (
        (agent.stt, config.stt_config),
        (agent.llm, config.llm_config),
        (agent.tts, config.tts_config),
    ):
        if model:
            read_model(model, block)
    fields = list(fields_of(reply_of(module, reply)))
    steering = [field for field in fields if field.field_name.endswith("instructions")]
    texts = [field for field in fields if field.field_type == "string" and field not in steering]
    for field in texts:
        field.metadata.use_in_tts = field.field_name == spoken if spoken else field is texts[0]
    if steering and config.HasField("tts_config"):
        config.tts_config.instruction_field = steering[0].field_name
    config.schema_config.fields.extend(fields)
    return config


def read_model(model: Any, block: Any) -> None:
    """What a plugin's model was made with, by the names of the config's block."""
    plugin = PLUGIN.match(type(model).__module__)
    block.provider = plugin[1] if plugin else "openai"
    if variable := KEYS.get(block.provider):
        block.api_key = f"env:{variable}"
    made_with = getattr(model, "_opts", None)
    for name in ("model", "language", "voice", "temperature", "speed"):
        value = getattr(made_with, name, None)
        known = name in block.DESCRIPTOR.fields_by_name
        if known and isinstance(value, str | int | float) and str(value) and str(value) != "NOT_GIVEN":
            setattr(block, name, str(value) if isinstance(value, str) else value)


def reply_of(module: ModuleType, name: str) -> type | None:
    """The TypedDict of the replies; None if there is none."""
    found = [
        value
        for value in vars(module).values()
        if typing_extensions.is_typeddict(value) and value.__module__ == module.__name__
    ]
    if name:
        found = [value for value in found if value.__name__ == name]
    if len(found) > 1:
        raise SystemExit(f"which is the reply's? --reply {' or '.join(each.__name__ for each in found)}")
    return found[0] if found else None


def fields_of(reply: type | None) -> Iterator[SchemaField]:
    """The fields of a TypedDict, with what its annotations and docstring say."""
    if reply is None:
        return
    described = dict(re.findall(r"^\s*(\w+): (.+)$", inspect.getdoc(reply) or "", re.MULTILINE))
    for name, hint in typing_extensions.get_type_hints(reply, include_extras=True).items():
        field = SchemaField(field_name=name, description=described.get(name, ""), required=True)
        _read_type(field, hint)
        yield field


def _read_type(field: SchemaField, hint: Any) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing_extensions.NotRequired, typing_extensions.Required):
        field.required = origin is typing_extensions.Required
        _read_type(field, arguments[0])
    elif origin is Annotated:
        _read_type(field, arguments[0])
        for extra in arguments[1:]:
            _read_annotation(field, extra)
    elif origin is Literal:
        field.field_type = "enum"
        field.constraints.enum_values.extend(map(str, arguments))
    elif origin is list:
        field.field_type, field.item_type = "array", TYPES[arguments[0]]
    elif type(None) in arguments:
        field.required = False
        _read_type(field, next(each for each in arguments if each is not type(None)))
    elif hint in TYPES:
        field.field_type = TYPES[hint]
    else:
        raise SystemExit(f"{field.field_name}: {hint} has no type of a schema's field")


def _read_annotation(field: SchemaField, extra: Any) -> None:
    match extra:
        case FieldInfo():
            field.description = extra.description or field.description
            for each in extra.metadata:
                _read_annotation(field, each)
        case str():
            field.description = extra
        case annotated_types.Ge(ge=limit):
            field.constraints.minimum = float(str(limit))
        case annotated_types.Le(le=limit):
            field.constraints.maximum = float(str(limit))
        case annotated_types.MinLen(min_length=length):
            field.constraints.min_length = length
        case annotated_types.MaxLen(max_length=length):
            field.constraints.max_length = length
        case _:
            pass


def present(stub: agents_grpc.AgentServiceStub, tenant: str, agent: str) -> AgentConfig | None:
    """What the agent's live version has now; None if there is no such agent."""
    request = agents_pb2.GetAgentVersionRequest(tenant_id=tenant, agent_id=agent, alias="live")
    try:
        return stub.GetAgentVersion(request).version.config
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise SystemExit(f"the control plane says: {error.details()}") from None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the agent's file and class, as FILE.py:CLASS")
    parser.add_argument("--tenant", default="demo", help="tenant of the agent (default: demo)")
    parser.add_argument("--agent", default="pte-interview", help="id of the agent (default: pte-interview)")
    parser.add_argument("--server", default="127.0.0.1:50051", help="address of the control plane")
    parser.add_argument("--reply", default="", help="the TypedDict of the replies, if there are several")
    parser.add_argument("--spoken", default="", help="the field that is spoken; else the first text")
    parser.add_argument("--write", action="store_true", help="write what is shown")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
