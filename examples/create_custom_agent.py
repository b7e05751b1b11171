"""An agent's life by API calls, one after the other.

    voxplane dev                               # in another terminal
    python examples/create_custom_agent.py
    python examples/create_custom_agent.py --server 127.0.0.1:50051 --tenant demo --agent tutor

It makes an agent, adds a field to its reply, drafts a change and looks at it,
promotes it, resolves who gets what, and rolls back; a watch shows each change
as nodes get it. The agent is deleted at the end, unless --keep is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import grpc

from voxplane.resolve import resolve
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig, LlmConfig, PromptConfig
from voxplane.v1.agent_service_pb2_grpc import AgentServiceStub
from voxplane.v1.bundle_pb2 import AgentBundle
from voxplane.v1.config_sync_service_pb2_grpc import ConfigSyncServiceStub
from voxplane.v1.schema_pb2 import FieldConstraints, FieldMetadata, SchemaConfig, SchemaField

CALL_SECONDS_MAX = 15.0

CONFIG = AgentConfig(
    agent_type="custom",
    version="1.0.0",
    prompt_config=PromptConfig(
        instructions="Teach {{ subject }} to {{ name }}, one small step at a time.",
        dynamic_vars={"subject": "chess", "name": "a beginner"},
    ),
    llm_config=LlmConfig(provider="offline", temperature=0.4),
    schema_config=SchemaConfig(
        fields=[
            SchemaField(
                field_name="explanation",
                field_type="string",
                description="What is said to the pupil.",
                required=True,
                metadata=FieldMetadata(use_in_tts=True),
            )
        ]
    ),
)


def main() -> int:
    """Make the calls; 1 if the control plane refuses one."""
    options = _options()
    with grpc.insecure_channel(options.server) as channel:
        try:
            play(channel, options.tenant, options.agent, keep=options.keep)
        except grpc.RpcError as error:
            print(f"the control plane says: {error.details()}", file=sys.stderr)
            return 1
    return 0


def play(channel: grpc.Channel, tenant: str, agent: str, *, keep: bool) -> None:
    """All calls, in order."""
    stub = AgentServiceStub(channel)
    of = {"tenant_id": tenant, "agent_id": agent}
    seconds = CALL_SECONDS_MAX

    # Watch: first what there is, then every change, as nodes get it.
    stream = ConfigSyncServiceStub(channel).WatchConfig(
        sync_pb2.WatchConfigRequest(tenant_id=tenant, agent_ids=[agent])
    )
    seen = bundles(stream)
    next(seen)  # nothing yet

    # Create. A request_id makes a retry safe: it returns the first answer.
    created = stub.CreateAgent(
        agents_pb2.CreateAgentRequest(
            **of, config=CONFIG, display_name="Tutor", note="first", request_id=f"{agent}-1"
        ),
        timeout=seconds,
    )
    tell("created", f"version {created.version.number}, revision {created.revision.number}", next(seen))

    # Add a field to the reply. It is live at once; running calls have it at their next turn.
    field = SchemaField(
        field_name="level",
        field_type="enum",
        description="How well the pupil does.",
        required=True,
        constraints=FieldConstraints(enum_values=["beginner", "advanced"]),
    )
    added = stub.AddSchemaField(
        agents_pb2.AddSchemaFieldRequest(**of, field=field, note="a level"), timeout=seconds
    )
    tell("field added", f"version {added.version.number}", next(seen))

    # Draft: a version that no alias points at. The mask names what changes, all else stays.
    drafted = agents_pb2.UpdateAgentConfigRequest(**of, draft=True, note="stricter", etag=added.agent.etag)
    drafted.config.prompt_config.instructions = "Teach {{ subject }} to {{ name }}, and be strict."
    drafted.update_mask.paths.append("prompt_config.instructions")
    draft = stub.UpdateAgentConfig(drafted, timeout=seconds).version.number
    tell("drafted", f"version {draft}, and nobody has it")

    # Render: the prompt as a call would get it, before anybody does.
    rendered = stub.RenderPrompt(
        agents_pb2.RenderPromptRequest(**of, number=draft, variables={"name": "Ada"}), timeout=seconds
    )
    tell("rendered", rendered.instructions)

    # Promote to staging first, then to live. Versions never change; aliases move.
    stub.SetAlias(agents_pb2.SetAliasRequest(**of, alias="staging", version=draft), timeout=seconds)
    staged = next(seen)
    tell("staged", f"version {draft}", staged)

    # Resolve, as nodes do it: a pure function of the bundle and the caller.
    for alias in ("live", "staging"):
        found = resolve(staged, alias)
        tell(f"resolved {alias}", f"version {found.version}: {', '.join(found.reasons)}")

    promoted = stub.SetAlias(agents_pb2.SetAliasRequest(**of, alias="live", version=draft), timeout=seconds)
    tell("promoted", f"live is version {promoted.agent.aliases['live'].version}", next(seen))

    # Roll back: the alias goes to the version before.
    rolled = stub.RollbackAlias(agents_pb2.RollbackAliasRequest(**of), timeout=seconds)
    tell("rolled back", f"live is version {rolled.version.number}", next(seen))

    if not keep:
        stub.DeleteAgent(agents_pb2.DeleteAgentRequest(**of), timeout=seconds)
        tell("deleted", "UndeleteAgent brings it back", next(seen))
    stream.cancel()


def bundles(stream: Iterator[sync_pb2.WatchConfigResponse]) -> Iterator[AgentBundle | None]:
    """The agent's bundle after each transfer; None where it is not there."""
    held: AgentBundle | None = None
    for message in stream:
        transfer = message.transfer
        for bundle in transfer.bundles:
            held = bundle
        if transfer.removed:
            held = None
        if transfer.HasField("synced"):  # a transfer counts when its end has come
            yield held


def tell(what: str, more: str, bundle: AgentBundle | None = None) -> None:
    """One line for a call, and what the watch has shown of it."""
    print(f"{what:16} {more}")
    if bundle is not None:
        aliases = ", ".join(f"{name} → v{number}" for name, number in sorted(bundle.aliases.items()))
        print(f"{'':16} watch: revision {bundle.revision}, {aliases}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--server", default="127.0.0.1:50051", help="address of the control plane")
    parser.add_argument("--tenant", default="demo", help="the tenant (default: demo)")
    parser.add_argument("--agent", default="tutor", help="id of the new agent (default: tutor)")
    parser.add_argument("--keep", action="store_true", help="do not delete it at the end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
