"""Makes the Python stubs of the contract: a hatchling build hook, and
`python hatch_build.py` for `make generate`.

`buf/validate/validate.proto` is not in the repository: its descriptor is taken
out of the protovalidate wheel, so nothing but the package registry is needed.
"""

from __future__ import annotations

import argparse
import importlib.resources
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
VALIDATE = "buf/validate/validate.proto"


def _validate_descriptor() -> bytes:
    from google.protobuf import descriptor_pb2
    from protovalidate._gen.buf.validate import validate_pb

    proto = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    files = descriptor_pb2.FileDescriptorSet()
    for name in ("descriptor", "duration", "field_mask", "timestamp"):
        module = __import__(f"google.protobuf.{name}_pb2", fromlist=["DESCRIPTOR"])
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.append(proto)
    return files.SerializeToString()


def _includes() -> list[Path]:
    import google.rpc.status_pb2 as status

    return [
        ROOT / "proto",
        Path(str(importlib.resources.files("grpc_tools") / "_proto")),
        Path(status.__file__).parents[2],
    ]


def _protoc(options: Sequence[str], sources: Sequence[str]) -> None:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "validate.binpb"
        descriptors.write_bytes(_validate_descriptor())
        paths = [f"--proto_path={path}" for path in _includes()]
        arguments = ["protoc", f"--descriptor_set_in={descriptors}", *paths, *options, *sources]
        if protoc.main(arguments):  # pyright: ignore[reportUnknownMemberType]
            raise RuntimeError("protoc refused the contract; see above")


def _sources() -> list[str]:
    return sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))


def generate(out: Path = ROOT) -> list[Path]:
    """Write the stubs below `out` and return what was written.

    Raises RuntimeError if protoc refuses the contract; its words are on stderr.
    """
    sources = _sources()
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    plugin = shutil.which("protoc-gen-mypy_grpc", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    outputs.append(f"--plugin=protoc-gen-mypy_grpc={plugin}")
    for package in {Path(source).parent for source in (*sources, VALIDATE)}:
        for stale in (out / package).glob("*_pb2*.py*"):
            stale.unlink()
    _protoc(outputs, [VALIDATE, *sources])
    written: list[Path] = []
    for source in (*sources, VALIDATE):
        stem = out / source.removesuffix(".proto")
        services = stem.with_name(stem.name + "_pb2_grpc.py")
        if not source.endswith("_service.proto"):
            services.unlink()
            services.with_suffix(".pyi").unlink(missing_ok=True)
        made = [stem.with_name(stem.name + suffix) for suffix in ("_pb2.py", "_pb2.pyi")]
        written += [path for path in (*made, services, services.with_suffix(".pyi")) if path.exists()]
    return written


def write_descriptors(path: Path) -> None:
    """Write the contract and its imports as a FileDescriptorSet, for buf."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _protoc([f"--descriptor_set_out={path}", "--include_imports", "--include_source_info"], _sources())


class CustomBuildHook(BuildHookInterface[Any]):
    """Runs `generate` before a wheel or an editable install is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate, and put what was made into the build."""
        build_data["artifacts"] += [str(p.relative_to(ROOT)) for p in generate()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the Python stubs of the contract.")
    parser.add_argument("--descriptors", type=Path, help="write a FileDescriptorSet here instead")
    target = parser.parse_args().descriptors
    if target:
        write_descriptors(target)
    else:
        generate()
