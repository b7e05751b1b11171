"""Libraries that stand between a process and its kernel, built when a test
needs them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMPILE_SECONDS_MAX = 60
_FOLDER = Path(__file__).parent


def why_not() -> str:
    """Why shims cannot be used here, and what would help; empty if they can."""
    if not sys.platform.startswith("linux"):
        return "faults of the disk and the clock are put under a process by LD_PRELOAD, on Linux with glibc"
    if shutil.which("cc") is None:
        return "no C compiler; install one, such as by `apt install gcc libc6-dev`"
    return ""


@functools.cache
def shim(name: str) -> Path:
    """The library made of NAME_shim.c, once for the life of this process.
    Raises subprocess.CalledProcessError if the compiler finds fault."""
    library = _build_folder() / f"{name}_shim.so"
    source = _FOLDER / f"{name}_shim.c"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", str(library), str(source), "-ldl"],
        check=True,
        timeout=COMPILE_SECONDS_MAX,
    )
    return library


def preload(*environments: dict[str, str]) -> dict[str, str]:
    """One environment out of those of several shims."""
    libraries = [made["LD_PRELOAD"] for made in environments]
    together = {key: value for made in environments for key, value in made.items()}
    return {**together, "LD_PRELOAD": os.pathsep.join(libraries)} if libraries else {}


@functools.cache
def _build_folder() -> Path:
    # Removed with the process, as the object is kept by the cache.
    return Path(_temporary().name)


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="voxplane-shims-")
