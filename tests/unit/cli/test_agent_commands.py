"""`voxplane agents`, `watch`, `nodes` and `wait` against a real control plane."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.cli.processes import Result, voxplane
from tests.unit.server.in_process import served
from voxplane.cli.app import app

CONFIG = """
agent_type: support
version: "1.0"
prompt_config:
  instructions: |
    Greet {{ name }}.
    Be kind.
  dynamic_vars: {name: the caller}
llm_config: {provider: offline}
schema_config:
  fields:
    - {field_name: reply, field_type: str, required: true, metadata: {use_in_tts: true}}
    - {field_name: score, field_type: int, constraints: {minimum: 0, maximum: 9}}
"""


class Shell:
    """Types commands for one control plane."""

    def __init__(self, server: str) -> None:
        self.server = server

    async def run(self, line: str, *more: str, stdin: str = "") -> Result:
        """A command that succeeds; `more` are arguments with spaces in them."""
        result = await self.fail(line, *more, stdin=stdin)
        assert result.code == 0, result.err
        return result

    async def fail(self, line: str, *more: str, stdin: str = "") -> Result:
        """A command, whatever becomes of it."""
        return await voxplane(*line.split(), *more, stdin=stdin, server=self.server)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    """A control plane with one agent, made from a file on standard input."""
    async with served(tmp_path):
        it = Shell(f"unix:{tmp_path}/s.sock")
        await it.run("agents create helper -f - --note", "the first", stdin=CONFIG)
        yield it


async def test_an_agent_from_its_file_to_its_rollback(shell: Shell) -> None:
    """What a file says is published, shown, changed, compared and taken back."""
    shown = await shell.run("agents get helper")
    assert "Greet {{ name }}.\n    Be kind." in shown.out
    assert "field_type: integer" in shown.out
    changed = shown.out.replace("Be kind.", "Be brief.")
    answer = await shell.run("agents update helper -f - --json", stdin=changed)
    assert (answer.data["version"]["number"], answer.data["revision"]["number"]) == ("2", "2")
    diff = (await shell.run("agents diff helper")).out.splitlines()
    assert diff[0] == "helper v1 → v2"
    assert "prompt_config.instructions" in diff
    assert "  -Be kind." in diff
    assert "  +Be brief." in diff
    await shell.run("agents update helper --set llm_config.temperature=0.2 --set", "version=1.1: warm")
    (number, label, *_) = (await shell.run("agents history helper")).out.splitlines()[1].split()
    assert (number, label) == ("v3", "1.1:")
    assert "live" in (await shell.run("agents history helper")).out
    assert "v2" in (await shell.run("agents rollback helper")).out
    rendered = await shell.run("agents render helper --var name=Ada")
    assert rendered.out.strip().splitlines() == ["Greet Ada.", "Be brief."]
    listed = (await shell.run("agents list --json")).data
    assert [agent["agent_id"] for agent in listed] == ["helper"]


async def test_aliases_fields_tracing_and_deletion(shell: Shell) -> None:
    """The short ways to change an agent each do what they say."""
    await shell.run("agents add-field helper mood str --description", "how they feel")
    await shell.run("agents remove-field helper score")
    await shell.run("agents set-tracing helper --on --sample-rate 0.5")
    await shell.run("agents set-alias helper staging 2")
    config = (await shell.run("agents get helper --json")).data["config"]
    assert [f["field_name"] for f in config["schema_config"]["fields"]] == ["reply", "mood"]
    assert config["tracing_config"] == {"enabled": True, "sample_rate": 0.5}
    staging = (await shell.run("agents get helper --alias staging --json")).data
    assert staging["number"] == "2"
    await shell.run("agents delete helper")
    assert "helper" not in (await shell.run("agents list")).out
    assert "helper (deleted)" in (await shell.run("agents list --deleted")).out
    await shell.run("agents undelete helper")
    assert "helper" in (await shell.run("agents list")).out


async def test_a_dry_run_changes_nothing(shell: Shell) -> None:
    """--dry-run answers, and leaves the agent as it was."""
    await shell.run("agents update helper --dry-run --set llm_config.temperature=0.2")
    assert (await shell.run("agents list --json")).data[0]["latest_version"] == "1"


async def test_a_wrong_file_is_a_matter_of_usage(shell: Shell) -> None:
    """Every key and value that does not fit is named by its path; exit code 2."""
    wrong = CONFIG.replace("instructions:", "instrctions:").replace("minimum: 0", "minimum: none")
    result = await shell.fail("agents create other -f -", stdin=wrong)
    assert result.code == 2
    assert result.err.splitlines() == [
        "✗ - does not fit AgentConfig",
        "  prompt_config.instrctions: unknown key; did you mean instructions?",
        "  schema_config.fields[1].constraints.minimum: must be a number",
    ]


async def test_what_the_server_refuses_is_shown_by_fields(shell: Shell) -> None:
    """One red line with the reason, a line for each field, and exit code 1; the
    same as JSON with --json."""
    line = "agents update helper --set llm_config.temperature=3 --set llm_config.api_key=abc"
    result = await shell.fail(line)
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert lines[0].startswith("✗ INVALID_REQUEST: ")
    assert [each.split(":")[0].strip() for each in lines[1:]] == [
        "config.llm_config.temperature",
        "config.llm_config.api_key",
    ]
    error = json.loads((await shell.fail(f"{line} --json")).err)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert error["violations"][0]["field"] == "config.llm_config.temperature"


async def test_refusals_come_with_a_hint(shell: Shell) -> None:
    """What to do next stands below the error."""
    stale = await shell.fail("agents update helper --etag old --set version=2")
    assert stale.err.startswith("✗ ETAG_MISMATCH: ")
    assert "retry" in stale.err
    missing = await shell.fail("agents get nobody")
    assert "voxplane agents list" in missing.err
    assert (stale.code, missing.code) == (1, 1)


async def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    """Nobody at the address: one line, a hint, exit code 1."""
    result = await voxplane("agents", "list", server=f"unix:{tmp_path}/none.sock")
    assert result.code == 1
    assert "nobody answers" in result.err
    assert "voxplane dev" in result.err


async def test_a_watch_shows_what_is_there(shell: Shell) -> None:
    """People see tenant, revision, intent and versions; programs the message."""
    text = (await shell.run("watch --count 1")).out
    assert "revision 1 FULL" in text
    assert "tenants/demo/agents/helper live=v1" in text
    message = json.loads((await shell.run("watch --count 1 --json")).out)
    assert message["transfer"]["start"]["intent"] == "TRANSFER_INTENT_FULL"


async def test_wait_says_who_is_missing(shell: Shell) -> None:
    """A fleet that does not run the revision is exit code 3; an empty one that
    may be empty has converged."""
    lonely = await shell.fail("wait --timeout 0.1 --json")
    assert lonely.code == 3
    assert (await shell.run("wait --min-nodes 0")).code == 0
    assert (await shell.run("nodes list --json")).data == []
    assert (await shell.fail("nodes get nobody")).err.startswith("✗ NODE_NOT_FOUND: ")


async def test_every_command_explains_itself() -> None:
    """--help of each command has an example that begins with its own name, but
    for those that are for Voxplane itself."""
    import typer

    def commands(prefix: str, group: object) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        for name, each in getattr(group, "commands", {}).items():
            if hasattr(each, "commands"):
                found += commands(f"{prefix} {name}", each)
            elif not each.hidden:
                found.append((f"{prefix} {name}", each.help or ""))
        return found

    listed = commands("voxplane", typer.main.get_command(app))
    assert len(listed) > 20
    assert not [name for name, text in listed if f"Example: {name}" not in text]
