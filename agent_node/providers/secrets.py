"""Secrets of the node, for the configs that refer to them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2

SECRET_BYTES_MAX = 16 * 1024

ENV_SUFFIXES = ("_API_KEY", "_TOKEN", "_SECRET", "_KEY")
OWN_ENV_PREFIXES = ("VOXPLANE_", "LIVEKIT_")
SECRET_DIRS = (Path("/run/secrets"),)

NAMES_ENV = "VOXPLANE_SECRET_ENV_NAMES"
SUFFIXES_ENV = "VOXPLANE_SECRET_ENV_SUFFIXES"
DIRS_ENV = "VOXPLANE_SECRET_DIRS"
"""How the node tells its jobs, and itself, what its settings allow: texts
joined by commas."""


class _Refused(Exception):
    """Why a reference gives no secret, in words that hold no secret."""


@dataclass(frozen=True, slots=True)
class SecretResolver:
    """Resolves `env:NAME` and `file:/path` against an allow-list.

    An environment variable is allowed if its name ends with one of
    `allowed_env_suffixes` or is in `allowed_env_names`; those of the node
    itself (VOXPLANE_*, LIVEKIT_*) only by name. A file is allowed if it is a
    regular file that lies, after all symbolic links, in one of
    `allowed_dirs`. No value is ever kept, logged or put into an error.
    """

    allowed_env_suffixes: tuple[str, ...] = ENV_SUFFIXES
    allowed_env_names: frozenset[str] = frozenset()
    allowed_dirs: tuple[Path, ...] = SECRET_DIRS
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def resolve(self, reference: str, path: str) -> str:
        """The secret that `reference` names.

        `path` is the reference's path in AgentConfig, for the error. Raises
        VoxplaneError(SECRET_UNAVAILABLE).
        """
        try:
            return self._resolve(reference)
        except _Refused as refused:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_SECRET_UNAVAILABLE,
                f"{path}: {refused}",
                violations=[Violation(path, str(refused))],
            ) from None

    def _resolve(self, reference: str) -> str:
        kind, _, name = reference.partition(":")
        match kind:
            case "env":
                return self._from_environment(name)
            case "file":
                return self._from_file(name)
            case _:
                # the text is not repeated: it may be a secret put there by mistake
                raise _Refused("is not a reference to a secret; write env:NAME or file:/path")

    def _from_environment(self, name: str) -> str:
        if not self._allows_variable(name):
            raise _Refused(f"the node does not hand out the environment variable {name}")
        value = self.environ.get(name, "").strip()
        if not value:
            raise _Refused(f"the environment variable {name} is not set on the node")
        return value

    def _allows_variable(self, name: str) -> bool:
        if name in self.allowed_env_names:
            return True
        return not name.startswith(OWN_ENV_PREFIXES) and name.endswith(self.allowed_env_suffixes)

    def _from_file(self, name: str) -> str:
        path = Path(name)
        if ".." in path.parts or not path.is_absolute():
            raise _Refused("the path of a secret must be absolute and without '..'")
        # one text for "outside" and "missing": it does not tell what else is on the node
        absent = _Refused(f"the node has no secret file {name} in an allowed directory")
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise absent from None
        if not any(real.is_relative_to(allowed.resolve()) for allowed in self.allowed_dirs):
            raise absent
        return _read(real, absent)


def allowed_by(environ: Mapping[str, str]) -> SecretResolver:
    """A resolver with the allow-list that the node's settings have put into
    the environment, and the default one where they have not."""

    def listed(name: str) -> tuple[str, ...] | None:
        text = environ.get(name)
        return None if text is None else tuple(part for part in text.split(",") if part)

    suffixes, names, dirs = listed(SUFFIXES_ENV), listed(NAMES_ENV), listed(DIRS_ENV)
    return SecretResolver(
        allowed_env_suffixes=ENV_SUFFIXES if suffixes is None else suffixes,
        allowed_env_names=frozenset(names or ()),
        allowed_dirs=SECRET_DIRS if dirs is None else tuple(map(Path, dirs)),
        environ=environ,
    )


def _read(path: Path, absent: _Refused) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not hang the job
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise absent from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise absent
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(SECRET_BYTES_MAX + 1)
    if len(content) > SECRET_BYTES_MAX:
        raise _Refused(f"the secret file {path} has more than {SECRET_BYTES_MAX} bytes")
    try:
        value = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise _Refused(f"the secret file {path} is not UTF-8 text") from None
    if not value:
        raise _Refused(f"the secret file {path} is empty")
    return value
