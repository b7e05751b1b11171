"""The callers, in a process inside the namespace: python -m tests.livekit.caller.

A line of JSON on the standard input asks for something, {"id", "do", …}; lines
on the standard output answer, {"re", "value"} or {"re", "error"}, and tell what
happens in a call, {"call", "event", "at", …}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.livekit.phone import Phone


class Callers:
    """Who is calling just now."""

    def __init__(self) -> None:
        self._phones: dict[str, Phone] = {}
        self._asked: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do as the standard input says, until it ends."""
        reader = asyncio.StreamReader(limit=2**22)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        _write({"event": "ready"})
        while line := await reader.readline():
            task = asyncio.create_task(self._answer(json.loads(line)))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
        for phone in self._phones.values():
            await phone.leave()

    async def _answer(self, asked: dict[str, Any]) -> None:
        number, what, call = asked.pop("id"), asked.pop("do"), asked.pop("call")
        try:
            value = await self._do(what, call, asked)
        except Exception as error:  # whatever it is, the test is told
            _write({"re": number, "error": f"{type(error).__name__}: {error}"})
        else:
            _write({"re": number, "value": value})

    async def _do(self, what: str, call: str, about: dict[str, Any]) -> Any:
        if what == "join":
            self._phones[call] = phone = Phone(lambda kind, **fields: _tell(call, kind, fields))
            return await phone.join(**about)
        phone = self._phones[call]
        match what:
            case "speak":
                pcm = await asyncio.to_thread(Path(about["pcm"]).read_bytes)
                return await phone.speak(pcm)
            case "ask":
                return await phone.ask(**about)
            case "write":
                return await phone.write(**about)
            case "answer_rpcs":
                return phone.answer_rpcs(**about)
            case "leave":
                return await self._phones.pop(call).leave()
            case _:
                raise ValueError(f"callers cannot {what}")


def _tell(call: str, kind: str, fields: dict[str, Any]) -> None:
    _write({"call": call, "event": kind, "at": time.monotonic()} | fields)


def _write(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Callers().run())
