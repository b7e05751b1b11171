"""`voxplane chat` as a user has it, on a node that plays a script."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from contextlib import suppress
from pathlib import Path

import grpc

from tests.unit.cli.fake_node import FakeNode, listening, opened, said
from tests.unit.cli.processes import voxplane
from voxplane.errors import Violation, VoxplaneError, to_status
from voxplane.node.v1 import relay_service_pb2 as pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

TERMINAL_SECONDS_MAX = 30.0
AGAIN_SECONDS = 5.0


def applied(to_version: int) -> pb2.ChatResponse:
    """A change was applied."""
    swap = pb2.ChatSwap(
        from_version=to_version - 1,
        to_version=to_version,
        phase=sync_pb2.CONFIG_PHASE_APPLIED,
        changed_fields=["llm_config.temperature"],
    )
    swap.since_commit.FromMilliseconds(17)
    return pb2.ChatResponse(swap=swap)


def refused() -> pb2.ChatResponse:
    """A change was refused."""
    swap = pb2.ChatSwap(from_version=3, to_version=4, phase=sync_pb2.CONFIG_PHASE_FAILED)
    error = VoxplaneError(
        reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN,
        "no such provider",
        violations=[Violation("config.llm_config.provider", "unknown")],
    )
    swap.error.CopyFrom(to_status(error))
    return pb2.ChatResponse(swap=swap)


async def test_lines_of_a_pipe_are_a_conversation(tmp_path: Path) -> None:
    """Each line gets its reply with its fields before the next is sent, and the
    end of the input ends the session with 0."""
    node = FakeNode(lambda text: said(f"You said {text}.", len(node.heard), stage=f"s{len(node.heard)}"))
    async with listening(node, tmp_path) as socket:
        result = await voxplane(
            *("chat", "interview", "--tenant", "acme", "--user", "ada", "--var", "name=Ada=1"),
            *("--alias", "staging", "--node-socket", str(socket)),
            stdin="hello\n\nbye",
        )
    assert (result.code, result.err) == (0, "")
    assert node.heard == ["hello", "bye"]
    assert result.out.splitlines() == [
        "interview v3 › hello",
        "You said hello.",
        "  stage = s1",
        "turn 1 · v3 · first words after 4.0 ms · 31 ms in all",
        "interview v3 › bye",
        "You said bye.",
        "  stage = s2",
        "turn 2 · v3 · first words after 4.0 ms · 31 ms in all",
    ]
    (caller,) = node.callers
    assert (caller.tenant_id, caller.agent_id, caller.user_id, caller.alias) == (
        "acme",
        "interview",
        "ada",
        "staging",
    )
    assert dict(caller.variables) == {"name": "Ada=1"}


async def test_changes_are_announced(tmp_path: Path) -> None:
    """A swap is told with its fields and its milliseconds and changes the version
    in the prompt; one that is refused is told with the field, and does not."""
    changes = {"one": [applied(4)], "two": [refused()]}
    node = FakeNode(lambda text: [*said(text), *changes.get(text, [])])
    async with listening(node, tmp_path) as socket:
        result = await voxplane("chat", "a", "--node-socket", str(socket), stdin="one\nzero\ntwo\nzero\n")
    assert "↻ v3 → v4 applied, 17 ms after the commit\n  llm_config.temperature\n" in result.out
    assert "✗ v4 refused, v3 goes on: no such provider\n  config.llm_config.provider: unknown\n" in result.out
    assert "a v4 › zero" in result.out
    assert result.code == 0


async def test_json_is_the_contract_line_by_line(tmp_path: Path) -> None:
    """With --json every event is a line, by the names of the contract."""
    node = FakeNode(lambda text: said(text, stage="x"))
    async with listening(node, tmp_path) as socket:
        result = await voxplane("chat", "a", "--json", "--node-socket", str(socket), stdin="hello\n")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert events[0] == {"opened": {"session_id": "text-1", "version": "3"}}
    assert events[-1]["turn"]["first_token"] == "0.004s"
    assert {"field": {"name": "stage", "value": "x"}} in events


async def test_without_a_node_it_says_how_to_start_one(tmp_path: Path) -> None:
    """No socket, and a socket that nobody serves, are one line and a hint."""
    missing = await voxplane("chat", "a", "--data-dir", str(tmp_path))
    assert missing.code == 1
    assert missing.err.startswith("✗ no node runs here")
    assert "voxplane dev" in missing.err
    async with listening(FakeNode(said), tmp_path) as socket:
        dead = socket.with_name("dead.sock")
        socket.rename(dead)
    found = await voxplane("chat", "a", "--node-socket", str(dead))
    assert (found.code, found.err.splitlines()[0]) == (1, f"✗ no node answers on {dead}")


async def test_a_session_that_cannot_open_says_why(tmp_path: Path) -> None:
    """An error in place of a session, a refused call and a node that hangs up."""
    error = pb2.ChatResponse(
        error=to_status(VoxplaneError(reason_pb2.ERROR_REASON_ALIAS_NOT_FOUND, "no alias 'x'"))
    )
    for node, words in (
        (FakeNode(said, first=[error]), "✗ ALIAS_NOT_FOUND: no alias 'x'"),
        (FakeNode(said, refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")), "✗ RESOURCE_EXHAUSTED: full"),
        (FakeNode(said, first=[]), "✗ the node ended the session before it began"),
    ):
        async with listening(node, tmp_path) as socket:
            result = await voxplane("chat", "a", "--node-socket", str(socket), stdin="hello\n")
        assert result.code == 1
        assert result.err.startswith(words)


async def test_a_failed_reply_does_not_end_the_session(tmp_path: Path) -> None:
    """The error is shown in its place, and the next line is sent."""
    failed = pb2.ChatResponse(error=to_status(VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, "no luck")))
    node = FakeNode(lambda text: [failed, *said("")] if text == "one" else said("fine"))
    async with listening(node, tmp_path) as socket:
        result = await voxplane("chat", "a", "--node-socket", str(socket), stdin="one\ntwo\n")
    assert "✗ BUILD_FAILED: no luck" in result.out
    assert "fine" in result.out
    assert result.code == 0


class Terminal:
    """`voxplane chat` on a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self.text = ""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            os.environ.update(COLUMNS="80", LINES="40", TERM="xterm")
            os.execv(sys.executable, [sys.executable, "-m", "voxplane", "chat", *arguments])

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._file, text.encode())

    async def until(self, text: str) -> None:
        """Until it has shown the text after all that was awaited before."""
        begin = len(self.text)
        async with asyncio.timeout(TERMINAL_SECONDS_MAX):
            while text not in self.text[begin:]:
                self.text += (await asyncio.to_thread(os.read, self._file, 65_536)).decode("utf-8", "replace")

    async def end(self, key: str) -> int:
        """Its exit code after a key that ends it. The screen is read on, as a
        terminal that nobody reads holds its program up; the key is pressed
        again, as one that comes between two prompts may be swallowed."""
        reading = asyncio.create_task(asyncio.to_thread(self._read_on))
        async with asyncio.timeout(TERMINAL_SECONDS_MAX):
            while not reading.done():
                self.type(key)
                await asyncio.wait({reading}, timeout=AGAIN_SECONDS)
            _, status = await asyncio.to_thread(os.waitpid, self._pid, 0)
        os.close(self._file)
        return os.waitstatus_to_exitcode(status)

    def _read_on(self) -> None:
        with suppress(OSError):  # the program has let go of its terminal
            while data := os.read(self._file, 65_536):
                self.text += data.decode("utf-8", "replace")


async def test_on_a_terminal(tmp_path: Path) -> None:
    """Fields stand beside the reply, the prompt shows the version, and Ctrl-D ends with 0."""
    node = FakeNode(lambda text: [*said("A spoken reply.", stage="closing"), applied(4)], first=[opened(3)])
    async with listening(node, tmp_path) as socket:
        terminal = Terminal("interview", "--node-socket", str(socket))
        await terminal.until("interview v3")
        terminal.type("hello\r")
        await terminal.until("in all")
        line = next(each for each in terminal.text.splitlines() if "A spoken reply." in each)
        assert "stage" in line
        assert "closing" in line
        await terminal.until("interview v4")
        assert await terminal.end("\x04") == 0
    assert "v3 → v4 applied" in terminal.text
    assert "Traceback" not in terminal.text


async def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a line hangs up, with 0 and without a traceback."""
    async with listening(FakeNode(said), tmp_path) as socket:
        terminal = Terminal("interview", "--node-socket", str(socket))
        await terminal.until("interview v3")
        terminal.type("half a l")
        await terminal.until("half a l")
        assert await terminal.end("\x03") == 0
    assert "Traceback" not in terminal.text
