"""What of a transfer the checker takes for a repetition."""

from __future__ import annotations

import pytest

from tests.robustness.arrival import Arrival, Have, check_declared
from tests.robustness.findings import Findings, Property
from tests.robustness.history import At, Bundle, Received, Start, Subscribed, Synced, Transfer
from tests.robustness.logs import Scope, TenantLog, logs_of

NAME = "tenants/red/agents/a"


@pytest.mark.parametrize(
    ("etag", "violated"),
    [("kept", set[Property]()), ("withheld", {Property.UNIQUE}), ("other", set[Property]())],
)
def test_a_bundle_repeats_what_the_digest_counts(etag: str, violated: set[Property]) -> None:
    """A node that has refused a bundle is told when what it has kept in its place is right again."""
    start, synced = Start("DELTA", "changed since 5", 5), Synced("", 1)
    whole = Transfer("red", At(6, "e"), start, [Bundle(NAME, etag, 6)], synced=synced)
    have = Have(At(5, "e"), {NAME: "kept"}, {NAME: "withheld"}, level=True)
    request = Subscribed(0.0, "picky", "picky/1", "red", node="picky")
    message = Received(1.0, "picky/1", "id", "2", whole)
    log = TenantLog("red", "e")
    findings = Findings()
    arrival = Arrival(request, Scope("red"), [message], whole, start, synced, have, log)
    check_declared(arrival, logs_of([]), set(), findings)
    assert findings.violated == violated
