"""serve, store and node come from their own packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tests.unit.cli.processes import voxplane
from voxplane.cli.failures import UsageError
from voxplane.cli.sides import GROUP, load_side


@pytest.mark.parametrize("found", [[], [EntryPoint("serve", "no_such_package:command", GROUP)]])
def test_a_missing_extra_is_named(found: list[EntryPoint]) -> None:
    """Without the packages of a side, its command says what to install."""
    with pytest.raises(UsageError) as raised:
        load_side("serve", found)
    assert "pip install 'voxplane[server]'" in raised.value.message


@pytest.mark.parametrize(
    ("side", "option"), [("serve", "--grpc-listen"), ("store", "new-epoch"), ("node", "--node-id")]
)
async def test_a_side_has_its_own_options(side: str, option: str) -> None:
    """--help of a side is the side's own, and so are its refusals."""
    helped = await voxplane(side, "--help")
    assert (helped.code, option in helped.out) == (0, True)
    refused = await voxplane(side, "--no-such-option", "x")
    assert (refused.code, "No such option" in refused.err) == (2, True)


async def test_the_version() -> None:
    """--version prints it."""
    assert (await voxplane("--version")).out.strip().count(".") == 2
