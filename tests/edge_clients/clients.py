"""Clients of the edge in other languages, built once into .build/edge_clients.

Each plays one script (see test_edge_clients.py) and needs no stubs: it reads
the contract from a FileDescriptorSet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = Path(__file__).parent
BUILT = ROOT / ".build" / "edge_clients"
BUILD_SECONDS_MAX = 600

HOW = {
    "go": ("go", "https://go.dev/dl/, 1.26 or newer"),
    "npm": ("npm", "https://nodejs.org, 20 or newer"),
    "mvn": ("mvn", "https://maven.apache.org, with Java 17 or newer"),
    "grpcurl": ("grpcurl", "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"),
    "h2spec": ("h2spec", "go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"),
}


def tool(name: str) -> str:
    """The path of a program. Without it a test is skipped, and fails in CI."""
    program, where = HOW[name]
    found = shutil.which(program)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing: {where}")
    if found is None:
        pytest.skip(f"{program} is missing; get it from: {where}")
    return found


def contract() -> Path:
    """The contract as a FileDescriptorSet."""
    protos = sorted((ROOT / "proto").rglob("*.proto"))

    def make(folder: Path) -> None:
        words = (
            sys.executable,
            str(ROOT / "hatch_build.py"),
            "--descriptors",
            str(folder / "contract.binpb"),
        )
        _run(words, ROOT)

    return _made("contract", protos, make) / "contract.binpb"


def go_client() -> list[str]:
    """The client with grpc-go, as a command."""
    go, sources = tool("go"), SOURCES / "go"
    files = sorted(path for path in sources.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    folder = _made("go", files, lambda out: _run((go, "build", "-o", str(out / "client"), "."), sources))
    return [str(folder / "client")]


def java_client() -> list[str]:
    """The client with grpc-java, as a command."""
    mvn, sources = tool("mvn"), SOURCES / "java"

    def make(out: Path) -> None:
        _run((mvn, "-q", "-B", "-f", str(sources / "pom.xml"), f"-Dedge.build={out}", "compile"), sources)

    folder = _made("java", sorted(sources.iterdir()), make)
    path = f"{folder / 'classes'}:{(folder / 'classpath').read_text().strip()}"
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", path, "EdgeClient"]


def node_client() -> list[str]:
    """The client with @grpc/grpc-js, as a command."""
    npm, sources = tool("npm"), SOURCES / "node"

    def make(out: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(sources / name, out / name)
        _run((npm, "ci", "--silent", "--no-audit", "--no-fund"), out)

    folder = _made("node", [sources / "package.json", sources / "package-lock.json"], make)
    return ["env", f"EDGE_CLIENT_MODULES={folder}", "node", str(sources / "client.js")]


def grpcurl_client() -> list[str]:
    """grpcurl."""
    return [tool("grpcurl")]


def _made(name: str, sources: list[Path], make: Callable[[Path], None]) -> Path:
    """The folder of what is made of sources; made anew when they change."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    folder = BUILT / name
    mark = folder / "made-of"
    if mark.exists() and mark.read_text() == digest:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    mark.write_text(digest)
    return folder


def _run(words: tuple[str, ...], folder: Path) -> None:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
