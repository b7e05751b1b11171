"""How the tour looks: headings, two columns for replies, one line for a fact."""

from __future__ import annotations

import asyncio
from typing import Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from voxplane.cli.chat.screen import Reply, fields_table, swap_lines, turn_line
from voxplane.cli.failures import Failure, headline
from voxplane.node.v1 import relay_service_pb2 as relay_pb2

WIDTH_MAX = 100
READ_SECONDS = 2.0
REPLY_SHARE = 0.5


class TourScreen:
    """Prints what the steps show."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = min(console.width, WIDTH_MAX)

    async def pause(self) -> None:
        """Time to read a step, where somebody may read."""
        if self._console.is_terminal:
            await asyncio.sleep(READ_SECONDS)

    def heading(self, number: int, title: str) -> None:
        """A step begins."""
        self._console.print()
        rule = Rule(f"[bold]{number}  {title}[/]", align="left", style="blue", characters="─")
        self._console.print(rule, width=self._width)

    def call(self, method: str, what: str) -> None:
        """A call of the control plane is made."""
        self._line(Text.assemble(("→ ", "cyan"), (method, "bold cyan"), f"  {what}"))

    def change(self, old: str, new: str) -> None:
        """A text was replaced."""
        if old:
            self._line(Text(f"- {old}", style="red"))
        self._line(Text(f"+ {new}", style="green"))

    def swap(self, swap: relay_pb2.ChatSwap) -> None:
        """The call took a change."""
        for line in swap_lines(swap):
            self._line(line)

    def said(self, who: str, text: str) -> None:
        """The user has said something."""
        self._line(Text.assemble((f"{who}: ", "bold magenta"), text))

    def reply(self, agent: str, reply: Reply, turn: relay_pb2.ChatTurn, new: str = "") -> None:
        """A reply with its fields beside it; the field `new` stands out."""
        left = int(self._width * REPLY_SHARE)
        fields = fields_table(reply.unspoken, mark=new)
        columns = Table.grid(padding=0)
        columns.add_column(width=left)
        columns.add_column(width=self._width - left)
        columns.add_row(
            Panel(Text(reply.text), title=f"{agent} v{turn.version} says", title_align="left"),
            Panel(fields, title="fields of the reply", title_align="left"),
        )
        self._console.print(columns)
        self._line(turn_line(turn))

    def fields(self, title: str, fields: dict[str, Any]) -> None:
        """Fields that came alone."""
        self._console.print(
            Padding(Panel(fields_table(fields), title=title, title_align="left"), (0, 0, 0, 2), expand=False),
            width=self._width,
        )

    def refused(self, failure: Failure) -> None:
        """A call was refused, as it should be."""
        self._line(headline(failure))
        for violation in failure.violations:
            self._line(Text.assemble("  ", (violation.field, "yellow"), f": {violation.description}"))

    def fact(self, text: str) -> None:
        """Something that was checked."""
        self._line(Text.assemble(("✓ ", "green"), text))

    def note(self, text: str) -> None:
        """Something that is not shown, and why."""
        self._line(Text(text, style="dim"))

    def show(self, what: RenderableType) -> None:
        """Anything else, such as a table."""
        self._console.print(Padding(what, (0, 0, 0, 2), expand=False), width=self._width)

    def end(self, title: str, lines: list[str]) -> None:
        """The tour is over."""
        self._console.print()
        panel = Panel("\n".join(lines), title=title, title_align="left", border_style="green")
        self._console.print(panel, width=self._width)

    def _line(self, text: Text) -> None:
        self._console.print(Padding(text, (0, 0, 0, 2), expand=False), width=self._width)
