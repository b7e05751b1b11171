"""Turns a hard-coded LiveKit agent into a Voxplane config.

The module is imported, the class is made, and its instructions, models, tools,
first words and the class of its replies are read; nothing of it is changed, and
no vendor is called. What would be written is shown first, as the difference to
what the agent has now, with what a config cannot hold.

    python examples/migrate_hardcoded_agent.py examples/hardcoded/pte_interview.py:PteInterviewer
    python examples/migrate_hardcoded_agent.py MODULE.py:CLASS --agent pte --write
    python examples/migrate_hardcoded_agent.py MODULE.py:CLASS --yaml > pte.yaml

Exit codes: 0 done; 1 the control plane refused it; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from migration.reading import Reading, Wishes, load, read

from voxplane.configdiff import field_changes
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import agent_service_pb2_grpc as agents_grpc
from voxplane.v1.agent_config_pb2 import AgentConfig

CALL_SECONDS_MAX = 15.0


def main() -> int:
    """Show the difference, and write it if that is wanted."""
    options = _options()
    path, _, name = options.source.rpartition(":")
    wishes = Wishes(None if options.no_reply else options.reply, options.spoken, options.tools_url)
    reading = read(load(Path(path)), name, wishes)
    if options.yaml:
        config = json_format.MessageToDict(reading.config, preserving_proto_field_name=True)
        print(yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True), end="")
        _show_notes(reading, sys.stderr)
        return 0
    with grpc.insecure_channel(options.server) as channel, _refusals():
        return _migrate(agents_grpc.AgentServiceStub(channel), options, reading, name)


def _migrate(stub: agents_grpc.AgentServiceStub, options: Any, reading: Reading, name: str) -> int:
    current, etag = present(stub, options.tenant, options.agent)
    changes = field_changes(current or AgentConfig(), reading.config)
    for change in changes:
        print(f"{change.path}\n  - {change.old!r}\n  + {change.new!r}")
    _show_notes(reading, sys.stdout)
    if not changes:
        print("nothing to change")
        return 0
    write = _create if current is None else _update
    # a dry run: what would be refused is said before anybody decides
    write(stub, options, reading, f"from {name}", etag, validate_only=True)
    if not options.write:
        print(f"\nchanges: {len(changes)}; --write makes them")
    elif options.yes or _agreed(f"\nmake these {len(changes)} changes? [y/N] "):
        done = write(stub, options, reading, f"from {name}", etag, validate_only=False)
        verb = "created" if current is None else "updated"
        print(f"{verb}, version {done.version.number}, revision {done.revision.number}")
    else:
        print("nothing was written")
    return 0


def _create(stub: Any, options: Any, reading: Reading, note: str, etag: str, *, validate_only: bool) -> Any:
    request = agents_pb2.CreateAgentRequest(
        tenant_id=options.tenant,
        agent_id=options.agent,
        config=reading.config,
        display_name=reading.display_name,
        note=note,
        validate_only=validate_only,
    )
    return stub.CreateAgent(request, timeout=CALL_SECONDS_MAX)


def _update(stub: Any, options: Any, reading: Reading, note: str, etag: str, *, validate_only: bool) -> Any:
    """Replace the blocks that the class has; others, such as tracing, stay."""
    request = agents_pb2.UpdateAgentConfigRequest(
        tenant_id=options.tenant,
        agent_id=options.agent,
        config=reading.config,
        note=note,
        etag=etag,
        validate_only=validate_only,
    )
    request.update_mask.paths.extend(each.name for each, _ in reading.config.ListFields())
    return stub.UpdateAgentConfig(request, timeout=CALL_SECONDS_MAX)


def present(stub: agents_grpc.AgentServiceStub, tenant: str, agent: str) -> tuple[AgentConfig | None, str]:
    """What the agent's live version has now, and the agent's etag; None if there is no such agent."""
    try:
        found = stub.GetAgent(
            agents_pb2.GetAgentRequest(tenant_id=tenant, agent_id=agent), timeout=CALL_SECONDS_MAX
        )
        live = stub.GetAgentVersion(
            agents_pb2.GetAgentVersionRequest(tenant_id=tenant, agent_id=agent, alias="live"),
            timeout=CALL_SECONDS_MAX,
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None, ""
        raise
    return live.version.config, found.agent.etag


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what the control plane refuses by its paths, and exit with 1."""
    try:
        yield
    except grpc.RpcError as error:
        lines = [f"the control plane says: {error.details()}"]
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            request = error_details_pb2.BadRequest()
            if detail.Unpack(request):
                lines += [f"  {each.field}: {each.description}" for each in request.field_violations]
        print("\n".join(lines), file=sys.stderr)
        raise SystemExit(1) from None


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, "|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _show_notes(reading: Reading, out: Any) -> None:
    if reading.notes:
        print("\nnot carried over as it was:", file=out)
        for note in reading.notes:
            print(f"  * {note}", file=out)


def _agreed(question: str, ask: Callable[[str], str] = input) -> bool:
    if not sys.stdin.isatty():
        print("--write asks first; where nobody can answer give --yes", file=sys.stderr)
        raise SystemExit(2)
    return ask(question).strip().lower() in ("y", "yes")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", help="the agent's file and class, or a function that makes it: FILE.py:NAME"
    )
    parser.add_argument("--tenant", default="demo", help="tenant of the agent (default: demo)")
    parser.add_argument("--agent", default="pte-interview", help="id of the agent (default: pte-interview)")
    parser.add_argument("--server", default="127.0.0.1:50051", help="address of the control plane")
    parser.add_argument("--reply", default="", help="the class of the replies, if there are several")
    parser.add_argument("--no-reply", action="store_true", help="replies are plain text")
    parser.add_argument("--spoken", default="", help="the field that is spoken; else the first text")
    parser.add_argument("--tools-url", default="", help="where the tools are served, each at /NAME by POST")
    parser.add_argument("--write", action="store_true", help="write what is shown, after asking")
    parser.add_argument("--yes", action="store_true", help="write without asking")
    parser.add_argument(
        "--yaml", action="store_true", help="print the config as YAML; no control plane needed"
    )
    options = parser.parse_args()
    if ":" not in options.source:
        parser.error("source: FILE.py:CLASS was expected")
    return options


if __name__ == "__main__":
    sys.exit(main())
