"""Watchers in a process of their own, so that it can be stopped and killed.

The arguments are the server's address, the file to record to, a seed, and the
watchers as JSON. Each line on stdin is a question: the answer is one line of
JSON, the Final records of all watchers. The end of stdin ends the process.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from pydantic import TypeAdapter

from tests.robustness.history import Final, Recorder
from tests.robustness.watcher import Spec, Watcher

_SPECS = TypeAdapter(list[Spec])
_FINALS = TypeAdapter(list[Final])


def encode_specs(specs: list[Spec]) -> str:
    """The watchers as an argument."""
    return _SPECS.dump_json(specs).decode()


def decode_finals(line: bytes) -> list[Final]:
    """An answer of the process."""
    return _FINALS.validate_json(line)


async def _main(address: str, file: Path, seed: int, specs: list[Spec]) -> None:
    chance = random.Random(seed)
    with file.open("w") as out:
        recorder = Recorder(out)
        watchers = [Watcher(spec, address, recorder, chance.randrange(2**32)) for spec in specs]
        tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
        questions = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(questions), sys.stdin
        )
        while await questions.readline():
            answer = _FINALS.dump_json([watcher.final() for watcher in watchers])
            sys.stdout.write(answer.decode() + "\n")
            sys.stdout.flush()
            for task in tasks:
                if task.done():
                    task.result()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    where, record, number, what = sys.argv[1:]
    asyncio.run(_main(where, Path(record), int(number), _SPECS.validate_json(what)))
