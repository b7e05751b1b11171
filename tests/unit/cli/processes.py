"""`voxplane` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


async def voxplane(
    *arguments: str, stdin: str = "", server: str = "", environment: Mapping[str, str] | None = None
) -> Result:
    """Run a command to its end."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VOXPLANE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "voxplane", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            **kept,
            "COLUMNS": "120",
            **({"VOXPLANE_SERVER": server} if server else {}),
            **(environment or {}),
        },
    )
    out, err = await asyncio.wait_for(process.communicate(stdin.encode()), SECONDS_MAX)
    result = Result(process.returncode or 0, out.decode(), err.decode())
    assert "Traceback" not in result.err, result.err
    return result
