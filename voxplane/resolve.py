"""Which version a caller gets: a pure function of the bundle and the caller.

A session pin wins over the alias. The same inputs give the same answer in
every process, and the reasons say why.
"""

from __future__ import annotations

from dataclasses import dataclass

from voxplane.errors import VoxplaneError
from voxplane.names import LIVE
from voxplane.v1 import bundle_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2


@dataclass(frozen=True, slots=True)
class Resolution:
    """The version's number, the hash of its content, and why it was chosen."""

    version: int
    content_hash: str
    reasons: tuple[str, ...]


def resolve(
    bundle: bundle_pb2.AgentBundle, alias: str = LIVE, pinned_version: int | None = None
) -> Resolution:
    """The version for a caller who follows `alias`, or is pinned; an empty
    alias means live.

    Raises VoxplaneError: ALIAS_NOT_FOUND, or VERSION_NOT_FOUND if the bundle
    does not reach the version.
    """
    alias = alias or LIVE
    if pinned_version is None:
        if alias not in bundle.aliases:
            raise VoxplaneError(
                reason_pb2.ERROR_REASON_ALIAS_NOT_FOUND,
                f"{bundle.name} has no alias {alias!r}",
                metadata={"agent": bundle.name, "alias": alias},
            )
        number, reason = bundle.aliases[alias], f"alias {alias}"
    else:
        number, reason = pinned_version, f"session pinned to version {pinned_version}"
    for version in bundle.versions:
        if version.number == number:
            return Resolution(number, version.content_hash, (reason,))
    raise VoxplaneError(
        reason_pb2.ERROR_REASON_VERSION_NOT_FOUND,
        f"{bundle.name} does not reach version {number}",
        metadata={"agent": bundle.name, "version": str(number)},
    )
