"""Commands to a session that runs, and their answers."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2

from agent_node.job.commands import Commands
from voxplane.errors import VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.bundle_pb2 import VersionContent
from voxplane.v1.session_service_pb2 import EndSessionAction, SessionCommand, SessionCommandResult


class Session:
    """Keeps what it was asked; raises what it is given to raise."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def end(self, *, now: bool, reason: str) -> None:
        """See Commanded."""
        self._ask("end", now, reason)

    def pin(self, version: int | None, content: VersionContent | None) -> None:
        """See Commanded."""
        self._ask("pin", version, content.content_hash if content else None)

    def trace(self, traced: bool) -> None:
        """See Commanded."""
        self._ask("trace", traced)

    def _ask(self, *what: object) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error


class World:
    """A session, its commands, and their answers."""

    def __init__(self) -> None:
        self.session = Session()
        self.answers: list[SessionCommandResult] = []
        self.commands = Commands(self.session, self.answers.append)

    def send(self, command: SessionCommand) -> SessionCommandResult:
        """Send a command; returns its answer."""
        self.commands.receive(command)
        return self.answers[-1]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (SessionCommand(end=EndSessionAction(now=True, reason="why")), ("end", True, "why")),
        (SessionCommand(pin_version=7), ("pin", 7, None)),
        (
            SessionCommand(pin_version=7, pinned_content=VersionContent(content_hash="abc")),
            ("pin", 7, "abc"),
        ),
        (SessionCommand(pin_version=0), ("pin", None, None)),
        (SessionCommand(trace=True), ("trace", True)),
        (SessionCommand(trace=False), ("trace", False)),
    ],
)
def test_a_command_is_carried_out_and_answered(command: SessionCommand, asked: tuple[object, ...]) -> None:
    """Each command reaches the session, and its answer has the command's id."""
    world = World()
    command.command_id = "c-1"
    answer = world.send(command)
    assert world.session.asked == [asked]
    assert (answer.command_id, answer.status.code) == ("c-1", code_pb2.OK)


def test_what_cannot_be_is_answered_with_its_reason() -> None:
    """An error of the session is the answer; one that nobody expected says
    nothing of what it was given."""
    world = World()
    world.session.error = VoxplaneError(reason_pb2.ERROR_REASON_SESSION_ENDED, "it is over")
    assert world.send(SessionCommand(trace=True)).status.message == "it is over"
    world.session.error = ValueError("the key sk-123")
    answer = world.send(SessionCommand(trace=True))
    assert answer.status.code == code_pb2.INTERNAL
    assert "sk-123" not in answer.status.message


def test_an_unknown_command_is_refused() -> None:
    """A command of a later release is answered, not passed over."""
    assert World().send(SessionCommand()).status.code == code_pb2.INVALID_ARGUMENT
