"""What a client has after a transfer is what the log shows."""

from __future__ import annotations

from collections.abc import Set

from tests.robustness.arrival import Arrival
from tests.robustness.findings import Findings, Property
from tests.robustness.logs import bundle_name, split_name
from voxplane.digest import bundles_digest


def check_held(arrival: Arrival, at_hand: Set[str], findings: Findings) -> None:
    """The state that the transfer has left, exactly. `at_hand` are the
    contents that the client has, by hash."""
    _check_bundles(arrival, findings)
    _check_contents(arrival, at_hand, findings)
    right = arrival.log.shown(arrival.scope, arrival.whole.at.number)
    synced = arrival.synced
    findings.require(
        (synced.digest, synced.count) == (bundles_digest(right), len(right)),
        Property.PROVEN,
        f"the digest is not that of the revision, or {synced.count} is not {len(right)}",
        *arrival.messages,
    )
    _compare(arrival, right, findings)


def _check_bundles(arrival: Arrival, findings: Findings) -> None:
    """What bundles say of themselves."""
    revision = arrival.whole.at.number
    for bundle in arrival.whole.bundles:
        agent = split_name(bundle.name)[1]
        what = arrival.log.states[revision].get(agent)
        if what is None or what.bundle != bundle.etag:
            continue  # that is found below
        since = arrival.log.bundle_since(agent, revision)
        findings.require(
            since <= bundle.revision <= revision and set(bundle.contents) == set(what.contents),
            Property.TRUTHFUL,
            f"{bundle.name} says revision {bundle.revision}, it is so since {since}",
            arrival.last,
        )


def _check_contents(arrival: Arrival, at_hand: Set[str], findings: Findings) -> None:
    for agent, what in arrival.log.states[arrival.whole.at.number].items():
        name = bundle_name(arrival.whole.tenant, agent)
        if arrival.have.etags.get(name) == what.bundle:
            missing = sorted(set(what.contents) - at_hand)
            findings.require(
                not missing, Property.COMPLETE, f"contents of {name} are missing: {missing}", arrival.last
            )


def _compare(arrival: Arrival, right: dict[str, str], findings: Findings) -> None:
    """If the client has not what is right, which promise is broken."""
    counted = arrival.have.counted
    wrong = {name for name in {*right, *counted} if right.get(name) != counted.get(name)}
    for which in (Property.ATOMIC, Property.RELIABLE):
        findings.require(True, which, "")
    for name in sorted(wrong):
        which, reason = _broken(arrival, name, right, wrong)
        findings.require(False, which, reason, *arrival.messages)


def _broken(arrival: Arrival, name: str, right: dict[str, str], wrong: Set[str]) -> tuple[Property, str]:
    log, revision = arrival.log, arrival.whole.at.number
    agent = split_name(name)[1]
    what = log.states[revision].get(agent)
    if name in arrival.have.counted and what is not None and not what.deleted and name not in right:
        return Property.FILTERED, f"{name} is not what was asked for"
    since = log.bundle_since(agent, revision)
    with_it = log.entries[since - 1].agents if since else {}
    if any(bundle_name(log.tenant, other) not in wrong for other in with_it):
        return Property.ATOMIC, f"at {revision} a part of revision {since} is missing: {name}"
    return Property.RELIABLE, f"at {revision} the change of revision {since} is missing: {name}"
