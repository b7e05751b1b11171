"""What a text session looks like: on a terminal, in a pipe, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from voxplane.cli.failures import headline, of_status
from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

FIELDS_SHARE = 0.45
REFRESHES_PER_SECOND = 15
PATHS_SHOWN = 4
_ERASE_LINE = "\r\x1b[K"


class Screen(Protocol):
    """Where a session is shown."""

    def prompt(self, version: int) -> str:
        """What stands before the user's line; the version is the one in force."""
        ...

    def asked(self, prompt: str, text: str) -> None:
        """The user has sent a message."""
        ...

    def happened(self, event: relay_pb2.ChatResponse, version: int) -> None:
        """Show what happened; `version` is in force after it."""
        ...

    def close(self) -> None:
        """Nothing more is shown."""
        ...


class Reply:
    """A reply as far as it has come."""

    def __init__(self) -> None:
        self.text = ""
        self.fields: dict[str, Any] = {}

    def take(self, event: relay_pb2.ChatResponse) -> None:
        """Add what an event brings."""
        match event.WhichOneof("event"):
            case "text_delta":
                self.text += event.text_delta
            case "field":
                self.fields[event.field.name] = plain_value(event.field.value)
            case "turn":
                self.text = event.turn.text or self.text
                rest = json_format.MessageToDict(event.turn.fields)
                self.fields |= {name: plain_value(v) for name, v in rest.items() if name not in self.fields}
            case _:
                pass

    @property
    def unspoken(self) -> dict[str, Any]:
        """The fields that are not simply the spoken text."""
        return {name: value for name, value in self.fields.items() if value != self.text.strip()}


def plain_value(value: object) -> Any:
    """A protobuf Value, or its JSON, as Python; whole numbers without a point."""
    data = json_format.MessageToDict(value) if hasattr(value, "DESCRIPTOR") else value  # pyright: ignore[reportArgumentType]
    if isinstance(data, float) and data.is_integer():
        return int(data)
    return data.strip() if isinstance(data, str) else data


def shown(value: object) -> str:
    """A field's value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def swap_lines(swap: relay_pb2.ChatSwap) -> list[Text]:
    """The notice that a change was applied or refused."""
    if swap.phase == sync_pb2.CONFIG_PHASE_APPLIED:
        paths = list(swap.changed_fields)
        more = f" and {len(paths) - PATHS_SHOWN} more" if len(paths) > PATHS_SHOWN else ""
        label = f" “{swap.version_label}”" if swap.version_label else ""
        since = (
            f", {milliseconds(swap.since_commit)} after the commit" if swap.HasField("since_commit") else ""
        )
        head = Text(f"↻ v{swap.from_version} → v{swap.to_version}{label} applied{since}", style="green")
        return [head, Text(f"  {', '.join(paths[:PATHS_SHOWN])}{more}", style="dim")] if paths else [head]
    failure = of_status(swap.error)
    wanted = f"v{swap.to_version}" if swap.to_version else "a change"
    lines = [Text(f"✗ {wanted} refused, v{swap.from_version} goes on: {failure.message}", style="red")]
    return lines + [Text(f"  {v.field}: {v.description}", style="dim") for v in failure.violations]


def milliseconds(duration: Duration) -> str:
    """A duration as people read it, such as `4.2 ms` and `31 ms`."""
    value = duration.ToNanoseconds() / 1e6
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"


def fields_table(fields: dict[str, Any], mark: str = "") -> Table:
    """Names and values of a reply's fields; the field `mark` stands out."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, Text(shown(value)), style="bold green" if name == mark else None)
    return table


def reply_view(reply: Reply, width: int) -> RenderableType:
    """The reply with its fields beside it, as far as it has come."""
    if not reply.unspoken:
        return Text(reply.text)
    right = int(width * FIELDS_SHARE)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=width - right - 2, overflow="fold")
    grid.add_column(width=right)
    grid.add_row(Text(reply.text), fields_table(reply.unspoken))
    return grid


def turn_line(turn: relay_pb2.ChatTurn) -> Text:
    """What made a reply, and how long it took."""
    return Text(
        f"turn {turn.turn} · v{turn.version} · first words after {milliseconds(turn.first_token)}"
        f" · {milliseconds(turn.total)} in all",
        style="dim",
    )


class TerminalScreen:
    """Two columns that fill while the reply streams; notices above the prompt."""

    def __init__(self, console: Console, agent: str, typed: Callable[[], str]) -> None:
        self._console = console
        self._agent = agent
        self._typed = typed
        self._reply = Reply()
        self._live: Live | None = None
        self._prompting = False

    def prompt(self, version: int) -> str:
        """See Screen."""
        self._prompting = True
        return self._prompt(version)

    def asked(self, prompt: str, text: str) -> None:
        """See Screen."""
        self._prompting = False
        self._reply = Reply()
        self._live = Live(console=self._console, refresh_per_second=REFRESHES_PER_SECOND)
        self._live.start()

    def happened(self, event: relay_pb2.ChatResponse, version: int) -> None:
        """See Screen."""
        match event.WhichOneof("event"):
            case "swap":
                self._notice(swap_lines(event.swap), version)
            case "error":
                self._notice([headline(of_status(event.error))], version)
            case "turn":
                self._reply.take(event)
                self._show(turn_line(event.turn))
                self.close()
                self._console.print()
            case _:
                self._reply.take(event)
                self._show()

    def close(self) -> None:
        """See Screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, *below: RenderableType) -> None:
        if self._live is not None:
            self._live.update(Group(reply_view(self._reply, self._console.width), *below))

    def _notice(self, lines: list[Text], version: int) -> None:
        if self._prompting:
            self._console.file.write(_ERASE_LINE)
        self._console.print(*lines, sep="\n")
        if self._prompting:
            # readline goes on with the line; this only draws it again
            self._console.file.write(self._prompt(version).replace("\001", "").replace("\002", ""))
            self._console.file.write(self._typed())
            self._console.file.flush()

    def _prompt(self, version: int) -> str:
        """\\001 and \\002 tell readline what takes no room."""
        return f"\001\x1b[1;36m\002{self._agent} v{version}\001\x1b[0m\002 › "


class PlainScreen:
    """Lines, for pipes and files."""

    def __init__(self, console: Console, agent: str) -> None:
        self._console = console
        self._agent = agent
        self._reply = Reply()

    def prompt(self, version: int) -> str:
        """See Screen."""
        return f"{self._agent} v{version} › "

    def asked(self, prompt: str, text: str) -> None:
        """See Screen."""
        self._reply = Reply()
        self._console.print(Text(f"{prompt}{text}"), soft_wrap=True)

    def happened(self, event: relay_pb2.ChatResponse, version: int) -> None:
        """See Screen."""
        match event.WhichOneof("event"):
            case "text_delta":
                self._console.file.write(event.text_delta)
                self._console.file.flush()
            case "swap":
                self._print(swap_lines(event.swap))
            case "error":
                self._print([headline(of_status(event.error))])
            case "turn":
                self._reply.take(event)
                fields = [Text(f"  {name} = {shown(v)}") for name, v in self._reply.unspoken.items()]
                self._print([Text(""), *fields, turn_line(event.turn)])
            case _:
                pass
        self._reply.take(event)

    def close(self) -> None:
        """See Screen."""

    def _print(self, lines: list[Text]) -> None:
        self._console.print(*lines, sep="\n", soft_wrap=True)


class JsonScreen:
    """Every event of the session as a line of JSON."""

    def prompt(self, version: int) -> str:
        """See Screen."""
        return ""

    def asked(self, prompt: str, text: str) -> None:
        """See Screen."""

    def happened(self, event: relay_pb2.ChatResponse, version: int) -> None:
        """See Screen."""
        data = json_format.MessageToDict(event, preserving_proto_field_name=True)
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """See Screen."""
