"""Which version a caller gets."""

from __future__ import annotations

import pytest

from voxplane.errors import VoxplaneError
from voxplane.resolve import Resolution, resolve
from voxplane.v1 import bundle_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

BUNDLE = bundle_pb2.AgentBundle(
    name="tenants/t/agents/a",
    aliases={"live": 3, "staging": 5, "broken": 9},
    versions=[
        bundle_pb2.BundleVersion(number=3, content_hash="three"),
        bundle_pb2.BundleVersion(number=5, content_hash="five"),
    ],
)


@pytest.mark.parametrize(
    ("alias", "pin", "resolution"),
    [
        ("live", None, Resolution(3, "three", ("alias live",))),
        ("", None, Resolution(3, "three", ("alias live",))),
        ("staging", None, Resolution(5, "five", ("alias staging",))),
        ("live", 5, Resolution(5, "five", ("session pinned to version 5",))),
        ("nowhere", 5, Resolution(5, "five", ("session pinned to version 5",))),
    ],
)
def test_the_pin_comes_before_the_alias(alias: str, pin: int | None, resolution: Resolution) -> None:
    """A caller gets the version of the pin, else of the alias, else of live, and is told why."""
    assert resolve(BUNDLE, alias, pin) == resolution


@pytest.mark.parametrize(
    ("alias", "pin", "reason"),
    [
        ("nowhere", None, reason_pb2.ERROR_REASON_ALIAS_NOT_FOUND),
        ("live", 4, reason_pb2.ERROR_REASON_VERSION_NOT_FOUND),
        ("broken", None, reason_pb2.ERROR_REASON_VERSION_NOT_FOUND),
    ],
)
def test_what_the_bundle_does_not_reach_is_an_error(alias: str, pin: int | None, reason: int) -> None:
    """Nobody gets another version than the one that was asked for."""
    with pytest.raises(VoxplaneError) as caught:
        resolve(BUNDLE, alias, pin)
    assert caught.value.reason == reason
    assert caught.value.metadata["agent"] == BUNDLE.name
