"""The Go programs of the benchmarks, built once into .build/bench."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from bench.processes import BenchError

SOURCES = Path(__file__).parent / "load"
BUILT = Path(__file__).parent.parent / ".build" / "bench"
PROGRAMS = ("client", "etcd", "ads")
BUILD_SECONDS_MAX = 900.0


def program(name: str) -> str:
    """The path of a built program."""
    return str(BUILT / name)


async def build() -> None:
    """Build what is missing or older than its sources. Raises BenchError."""
    newest = max(
        path.stat().st_mtime for path in SOURCES.rglob("*") if path.suffix in {".go", ".mod", ".sum"}
    )
    stale = [
        name for name in PROGRAMS if not (BUILT / name).exists() or (BUILT / name).stat().st_mtime < newest
    ]
    if not stale:
        return
    go = shutil.which("go")
    if go is None:
        raise BenchError(
            "the load client and etcd are built with Go: install it from https://go.dev/dl/, 1.26 or newer"
        )
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in stale:
        print(
            f"building bench/load/{name} (the first time: a minute or two, with downloads) ... ",
            end="",
            flush=True,
        )
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            go,
            *("build", "-o", program(name), f"./{name}"),
            cwd=SOURCES,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), BUILD_SECONDS_MAX)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise BenchError(f"go build failed:\n{said.decode()}")
        print(f"{time.monotonic() - began:.0f} s", flush=True)
