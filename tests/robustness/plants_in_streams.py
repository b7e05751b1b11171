"""Errors in streams to plant in a good history; see plants.py."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from tests.robustness.history import (
    At,
    Bundle,
    Ended,
    EpochBegan,
    Final,
    Received,
    Start,
    Subscribed,
    Synced,
    Transfer,
)
from tests.robustness.logs import Scope, bundle_name, logs_of
from tests.robustness.places import Records, changed_at, deltas, firsts, streams, transfers
from voxplane.digest import bundles_digest


def lost_event(records: Records, chance: random.Random) -> Records | None:
    """A change is left out of a message that says it has come."""
    places = [found for found in deltas(records) if found[2].bundles]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    bundles = list(transfer.bundles)
    bundles.pop(chance.randrange(len(bundles)))
    return changed_at(records, place, replace(message, transfer=replace(transfer, bundles=bundles)))


def lost_message(records: Records, chance: random.Random) -> Records | None:
    """A whole message does not come, and the next goes on as if it had."""
    found = deltas(records)
    places = [
        place
        for number, (place, message, transfer) in enumerate(found)
        if any(
            (later.stream, other.tenant) == (message.stream, transfer.tenant)
            for _, later, other in found[number + 1 :]
        )
    ]
    return changed_at(records, chance.choice(places)) if places else None


def lost_removal(records: Records, chance: random.Random) -> Records | None:
    """A removal is left out."""
    places = [found for found in deltas(records) if found[2].removed]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    return changed_at(records, place, replace(message, transfer=replace(transfer, removed=[])))


def reordered(records: Records, chance: random.Random) -> Records | None:
    """Two messages of a stream come in the wrong order."""
    found = deltas(records)
    pairs = [
        (first, second)
        for first, second in pairwise(found)
        if first[1].stream == second[1].stream and first[2].tenant == second[2].tenant
    ]
    if not pairs:
        return None
    (one, first, earlier), (two, second, later) = chance.choice(pairs)
    swapped = list(records)
    swapped[one] = replace(first, transfer=later)
    swapped[two] = replace(second, transfer=earlier)
    return swapped


def duplicate(records: Records, chance: random.Random) -> Records | None:
    """A message comes twice."""
    found = [one for one in deltas(records) if one[2].bundles]
    if not found:
        return None
    place, message, _ = chance.choice(found)
    return changed_at(records, place, message, message)


def duplicate_bundle(records: Records, chance: random.Random) -> Records | None:
    """A later message brings a bundle again that has not changed."""
    held: dict[tuple[str, str], Bundle] = {}
    places: list[tuple[int, Received, Transfer, Bundle]] = []
    for place, record in enumerate(records):
        if not isinstance(record, Received) or record.transfer is None:
            continue
        transfer = record.transfer
        touched = {*transfer.removed, *(bundle.name for bundle in transfer.bundles)}
        if transfer.start is not None and transfer.start.intent == "DELTA":
            places += [
                (place, record, transfer, bundle)
                for (stream, name), bundle in held.items()
                if stream == record.stream and name not in touched and _is_of(name, transfer.tenant)
            ]
        for name in touched:
            held.pop((record.stream, name), None)
        held.update({(record.stream, bundle.name): bundle for bundle in transfer.bundles})
    if not places:
        return None
    place, message, transfer, again = chance.choice(places)
    bundles = [*transfer.bundles, again]
    return changed_at(records, place, replace(message, transfer=replace(transfer, bundles=bundles)))


def _is_of(name: str, tenant: str) -> bool:
    return name.startswith(f"tenants/{tenant}/")


def torn_revision(records: Records, chance: random.Random) -> Records | None:
    """A revision of two changes comes in two transfers: the first brings one of
    them, and the digest of what it leaves behind."""
    logs = logs_of(records)
    requests = streams(records)
    places = [
        found
        for found in deltas(records)
        if sum(bundle.revision == found[2].at.number for bundle in found[2].bundles) > 1
    ]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    at, start = transfer.at, transfer.start
    assert start is not None
    log = logs.get(at.epoch, transfer.tenant)
    late = next(bundle for bundle in reversed(transfer.bundles) if bundle.revision == at.number)
    request = requests[message.stream]
    right = log.shown(Scope.of(request.tenant, request.agent_ids, request.labels), at.number)
    torn = {name: etag for name, etag in right.items() if name != late.name}
    first = replace(
        transfer,
        bundles=[bundle for bundle in transfer.bundles if bundle is not late],
        synced=Synced(bundles_digest(torn), len(torn)),
    )
    rest = Transfer(
        transfer.tenant, at, Start("DELTA", "the rest", at.number, 0), [late], synced=transfer.synced
    )
    return changed_at(records, place, replace(message, transfer=first), replace(message, transfer=rest))


def stale_full(records: Records, chance: random.Random) -> Records | None:
    """A client that comes back is sent all, as it was before what it has."""
    logs = logs_of(records)
    places: list[tuple[Subscribed, int, Received, Transfer, int]] = []
    for place, message, transfer, request in firsts(records):
        had = request.start_revisions.get(transfer.tenant)
        if had is not None and had.epoch == transfer.at.epoch and had.number > 1:
            places.append((request, place, message, transfer, had.number - 1))
    if not places:
        return None
    request, place, message, transfer, stale = chance.choice(places)
    log = logs.get(transfer.at.epoch, transfer.tenant)
    right = log.shown(Scope.of(request.tenant, request.agent_ids, request.labels), stale)
    bundles: list[Bundle] = []
    contents: list[str] = []
    for agent, what in log.states[stale].items():
        name = bundle_name(transfer.tenant, agent)
        if name in right:
            bundles.append(Bundle(name, right[name], log.bundle_since(agent, stale), what.contents))
            contents += [content for content in what.contents if content not in request.contents]
    old = Transfer(
        transfer.tenant,
        At(stale, transfer.at.epoch),
        Start("FULL", "start over"),
        bundles,
        [],
        contents,
        {},
        Synced(bundles_digest(right), len(right)),
    )
    return changed_at(records, place, replace(message, transfer=old))


def wrong_digest(records: Records, chance: random.Random) -> Records | None:
    """The digest is that of something else."""
    found = transfers(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    assert transfer.synced is not None
    wrong = replace(transfer, synced=replace(transfer.synced, digest=bundles_digest({"other": "x"})))
    return changed_at(records, place, replace(message, transfer=wrong))


def bookmark_ahead(records: Records, chance: random.Random) -> Records | None:
    """A bookmark comes before the changes that it covers."""
    logs = logs_of(records)
    requests = streams(records)
    places: list[tuple[int, Received, Transfer]] = []
    for place, message, transfer in deltas(records):
        request = requests[message.stream]
        scope = Scope.of(request.tenant, request.agent_ids, request.labels)
        log = logs.get(transfer.at.epoch, transfer.tenant)
        start = transfer.start
        assert start is not None
        if log.shown(scope, transfer.at.number) != log.shown(scope, start.from_revision):
            places.append((place, message, transfer))
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    early = replace(message, transfer=None, beat={transfer.tenant: transfer.at})
    start = transfer.start
    assert start is not None
    after = replace(transfer, start=replace(start, from_revision=transfer.at.number, skipped=0))
    return changed_at(records, place, early, replace(message, transfer=after))


def not_asked_for(records: Records, chance: random.Random) -> Records | None:
    """A message brings an agent that the watch does not name."""
    requests = streams(records)
    found = [one for one in transfers(records) if requests[one[1].stream].agent_ids]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    other = Bundle(bundle_name(transfer.tenant, "stranger"), "x", 1)
    wider = replace(transfer, bundles=[*transfer.bundles, other])
    return changed_at(records, place, replace(message, transfer=wider))


def other_tenant(records: Records, chance: random.Random) -> Records | None:
    """A message is about a tenant that is not watched."""
    requests = streams(records)
    found = [one for one in transfers(records) if requests[one[1].stream].tenant != "-"]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    return changed_at(records, place, replace(message, transfer=replace(transfer, tenant="stranger")))


def label_ignored(records: Records, chance: random.Random) -> Records | None:
    """An agent without the label that was asked for comes along."""
    logs = logs_of(records)
    requests = streams(records)
    places: list[tuple[int, Received, Transfer, Bundle]] = []
    for place, message, transfer in transfers(records):
        if not requests[message.stream].labels:
            continue
        log = logs.get(transfer.at.epoch, transfer.tenant)
        scope = Scope.of(transfer.tenant, [], requests[message.stream].labels)
        for agent, what in log.states[transfer.at.number].items():
            if not what.deleted and not scope.shows(transfer.tenant, agent, what):
                since = log.bundle_since(agent, transfer.at.number)
                other = Bundle(bundle_name(transfer.tenant, agent), what.bundle, since, what.contents)
                places.append((place, message, transfer, other))
    if not places:
        return None
    place, message, transfer, other = chance.choice(places)
    wider = replace(
        transfer,
        bundles=[*transfer.bundles, other],
        contents=[*transfer.contents, *(one for one in other.contents if one not in transfer.contents)],
    )
    return changed_at(records, place, replace(message, transfer=wider))


def _resumed(records: Records) -> list[tuple[int, Received, Transfer, Subscribed]]:
    """First transfers to clients that declared what they have, in one message."""
    return [
        found for found in firsts(records) if found[2].start is not None and found[2].start.intent != "FULL"
    ]


def resumed_elsewhere(records: Records, chance: random.Random) -> Records | None:
    """A resumed stream starts from another revision than was declared."""
    found = [one for one in _resumed(records) if one[2].start is not None and one[2].start.from_revision]
    if not found:
        return None
    place, message, transfer, _ = chance.choice(found)
    assert transfer.start is not None
    start = replace(transfer.start, from_revision=transfer.start.from_revision - 1)
    return changed_at(records, place, replace(message, transfer=replace(transfer, start=start)))


def resumed_with_nothing(records: Records, chance: random.Random) -> Records | None:
    """A client that lacks changes is told that it lacks none."""
    found = [one for one in _resumed(records) if one[2].bundles]
    if not found:
        return None
    place, message, transfer, _ = chance.choice(found)
    assert transfer.start is not None
    nothing = replace(
        transfer, start=replace(transfer.start, intent="NONE"), bundles=[], contents=[], removed=[]
    )
    return changed_at(records, place, replace(message, transfer=nothing))


def needless_full(records: Records, chance: random.Random) -> Records | None:
    """A client that could be built on is sent everything."""
    logs = logs_of(records)
    found = [
        one
        for one in _resumed(records)
        if one[3].known
        and not one[2].withheld
        and one[2].start is not None
        and one[2].start.from_revision >= logs.floor(one[2].tenant, one[2].at.epoch)
        and any(name.startswith(f"tenants/{one[2].tenant}/") for name in one[3].known)
    ]
    if not found:
        return None
    place, message, transfer, _ = chance.choice(found)
    assert transfer.start is not None
    full = replace(transfer, start=Start("FULL", "to be safe"))
    return changed_at(records, place, replace(message, transfer=full))


def epoch_ignored(records: Records, chance: random.Random) -> Records | None:
    """A client of another epoch is sent a delta."""
    requests = streams(records)
    found = [
        one
        for one in transfers(records)
        if (had := requests[one[1].stream].start_revisions.get(one[2].tenant)) is not None
        and had.epoch != one[2].at.epoch
        and one[2].start is not None
        and one[2].start.intent == "FULL"
    ]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    had = requests[message.stream].start_revisions[transfer.tenant]
    between = max(0, transfer.at.number - had.number - 1)
    delta = replace(transfer, start=Start("DELTA", "resumed", had.number, between))
    return changed_at(records, place, replace(message, transfer=delta))


def nonce_repeated(records: Records, chance: random.Random) -> Records | None:
    """Two messages of a stream have one nonce."""
    found = [
        place
        for place, record in enumerate(records)
        if isinstance(record, Received) and int(record.nonce) > 1
    ]
    if not found:
        return None
    place = chance.choice(found)
    message = records[place]
    assert isinstance(message, Received)
    wrong = replace(message, nonce=str(int(message.nonce) - 1))
    return [*records[:place], wrong, *records[place + 1 :]]


def skipped_wrong(records: Records, chance: random.Random) -> Records | None:
    """A message does not declare how many revisions it covers."""
    found = deltas(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    assert transfer.start is not None
    start = replace(transfer.start, skipped=transfer.start.skipped + 1)
    return changed_at(records, place, replace(message, transfer=replace(transfer, start=start)))


def content_missing(records: Records, chance: random.Random) -> Records | None:
    """A bundle comes without the content that it names."""
    found = [one for one in transfers(records) if one[2].bundles and one[2].contents]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    return changed_at(records, place, replace(message, transfer=replace(transfer, contents=[])))


def uncommitted_shown(records: Records, chance: random.Random) -> Records | None:
    """A stream shows a revision that the log does not have."""
    logs = logs_of(records)
    found = transfers(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    head = logs.get(transfer.at.epoch, transfer.tenant).head
    early = replace(transfer, at=At(head + 1, transfer.at.epoch))
    return changed_at(records, place, replace(message, transfer=early))


def left_behind(records: Records, chance: random.Random) -> Records | None:
    """A client has an older state when all is quiet."""
    found = [
        (place, record, tenant)
        for place, record in enumerate(records)
        if isinstance(record, Final)
        for tenant, held in record.held.items()
        if held.etags
    ]
    if not found:
        return None
    place, final, tenant = chance.choice(found)
    held = final.held[tenant]
    name = chance.choice(sorted(held.etags))
    stale = replace(held, etags=held.etags | {name: "older"})
    return changed_at(records, place, replace(final, held=final.held | {tenant: stale}))


def future_refused(records: Records, chance: random.Random) -> Records | None:
    """A client is refused for a revision that it was sent."""
    found = [
        (place, record)
        for place, record in enumerate(records)
        if isinstance(record, Ended) and streams(records)[record.stream].start_revisions
    ]
    if not found:
        return None
    place, end = chance.choice(found)
    return changed_at(records, place, replace(end, code="OUT_OF_RANGE", reason="REVISION_IN_FUTURE"))


def epoch_kept(records: Records, chance: random.Random) -> Records | None:
    """After the backup was restored a stream goes on in the old epoch."""
    epochs = [record for record in records if isinstance(record, EpochBegan)]
    if len(epochs) < 2:
        return None
    found = [one for one in transfers(records) if one[2].at.epoch == epochs[-1].epoch]
    logs = logs_of(records)
    found = [one for one in found if one[2].at.number <= logs.get(epochs[0].epoch, one[2].tenant).head]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    old = replace(transfer, at=At(transfer.at.number, epochs[0].epoch))
    return changed_at(records, place, replace(message, transfer=old))
