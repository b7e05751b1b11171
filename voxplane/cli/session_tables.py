"""Sessions and their turns as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.table import Table

from voxplane.v1 import session_pb2

STATE_PREFIX = "SESSION_STATE_"
OUTCOME_PREFIX = "SESSION_OUTCOME_"
KIND_PREFIX = "SESSION_KIND_"
_COLOURS = {"active": "green", "ended": "dim", "lost": "red"}


def sessions_table(sessions: Iterable[session_pb2.Session]) -> Table:
    """A session in each row."""
    table = Table(box=None, pad_edge=False)
    for column in ("SESSION", "AGENT", "STATE", "VERSION", "TURNS", "BEGAN", "SECONDS", "NODE", "USER"):
        table.add_column(column)
    for session in sessions:
        table.add_row(
            escape(session.session_id),
            session.agent_id,
            state_of(session),
            version_of(session),
            str(session.figures.turns),
            moment(session.start_time),
            lasted(session),
            escape(session.node_id),
            escape(session.user_id) or "-",
        )
    return table


def session_lines(session: session_pb2.Session) -> Iterator[str]:
    """What there is to say of one session, a line each."""
    figures = session.figures
    kind = session_pb2.SessionKind.Name(session.kind).removeprefix(KIND_PREFIX).lower()
    yield f"[bold]{escape(session.session_id)}[/] {state_of(session)}"
    yield f"  agent      {session.agent_id} {version_of(session)} {escape(session.version_label)}".rstrip()
    pinned = f"pinned to v{session.pinned_version}" if session.pinned_version else ""
    marks = [pinned, "traced" if session.traced else "", f"revision {session.revision}"]
    yield f"  follows    {session.alias or '-'}; " + ", ".join(mark for mark in marks if mark)
    room = f" in room {escape(session.room)}" if session.room else ""
    yield f"  held       {kind}{room} on {escape(session.node_id)}, user {escape(session.user_id) or '-'}"
    yield f"  began      {moment(session.start_time)} UTC, {lasted(session)} s"
    if session.end_reason:
        yield f"  ended      {escape(session.end_reason)}"
    if session.replacements:
        yield f"  replaced   {session.replacements} times"
    counts = (
        ("turns", figures.turns),
        ("interruptions", figures.interruptions),
        ("swaps", figures.swaps),
        ("errors", figures.errors),
        ("tool calls", figures.tool_calls),
        ("tokens in", figures.input_tokens),
        ("out", figures.output_tokens),
        ("characters spoken", figures.spoken_characters),
    )
    yield "  figures    " + ", ".join(f"{count} {name}" for name, count in counts)
    if session.scores:
        scores = ", ".join(f"{name} {score:g}" for name, score in sorted(session.scores.items()))
        yield f"  scores     {scores}"


def turns_table(turns: Iterable[session_pb2.SessionTurn]) -> Table:
    """A turn in each row; delays are in milliseconds."""
    table = Table(box=None, pad_edge=False)
    table.add_column("TURN")
    table.add_column("VERSION")
    for column in ("RESPONSE", "TRANSCRIPT", "FIRST TOKEN", "FIRST SPEECH", "TOKENS"):
        table.add_column(column, justify="right")
    table.add_column("NOTES")
    for turn in turns:
        table.add_row(
            str(turn.turn),
            f"{turn.agent_id} v{turn.version}",
            _delay(turn, "response"),
            _delay(turn, "transcription_delay"),
            _delay(turn, "first_token"),
            _delay(turn, "first_speech"),
            f"{turn.input_tokens}/{turn.output_tokens}",
            "; ".join(_notes(turn)),
        )
    return table


def change_line(session: session_pb2.Session, turns: Iterable[session_pb2.SessionTurn]) -> str:
    """A session that has changed, with its last new turn."""
    line = (
        f"{escape(session.session_id)} {state_of(session)} {session.agent_id} {version_of(session)}"
        f" [dim]{session.figures.turns} turns, {escape(session.node_id)}[/]"
    )
    last = list(turns)[-1:]
    for turn in last:
        notes = "".join(f"; {note}" for note in _notes(turn))
        line += f" [dim]turn {turn.turn}: v{turn.version}, {_delay(turn, 'response')} ms[/]{notes}"
    return line


def state_of(session: session_pb2.Session) -> str:
    """How far it has come, or how it ended."""
    state = session_pb2.SessionState.Name(session.state).removeprefix(STATE_PREFIX).lower()
    outcome = session_pb2.SessionOutcome.Name(session.outcome).removeprefix(OUTCOME_PREFIX).lower()
    told = outcome if state == "ended" and session.outcome else state
    return f"[{_COLOURS.get(state, 'yellow')}]{told.replace('_', ' ')}[/]"


def version_of(session: session_pb2.Session) -> str:
    """The version in force."""
    return f"v{session.version}" + (" pinned" if session.pinned_version else "")


def moment(time: Timestamp) -> str:
    """A time in UTC."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def lasted(session: session_pb2.Session) -> str:
    """Seconds from its beginning to its end, if it has ended."""
    if not (session.HasField("start_time") and session.HasField("end_time")):
        return "-"
    return f"{(session.end_time.ToNanoseconds() - session.start_time.ToNanoseconds()) / 1e9:.0f}"


def _delay(turn: session_pb2.SessionTurn, name: str) -> str:
    if not turn.HasField(name):
        return "-"
    delay: Duration = getattr(turn, name)
    return f"{delay.ToNanoseconds() / 1e6:.0f}"


def _notes(turn: session_pb2.SessionTurn) -> Iterator[str]:
    if turn.interrupted:
        yield "[yellow]interrupted[/]"
    if turn.tools:
        yield escape(" ".join(turn.tools))
    for error in turn.errors:
        yield f"[red]{escape(error.source)}: {escape(error.message)}[/]"
