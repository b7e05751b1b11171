"""Errors to plant in a good history, each as a server could make it.

A plant takes a history and chance, and returns the history with one error, or
None where the history has no place for it. What can be made to fit is made to
fit: nonces count on, and a lying server believes itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from tests.robustness.findings import Property
from tests.robustness.history import (
    At,
    Bundle,
    Committed,
    Ended,
    EpochBegan,
    Final,
    Operation,
    Received,
    Record,
    Start,
    Subscribed,
    Synced,
    Transfer,
)
from tests.robustness.logs import Scope, bundle_name, logs_of
from voxplane.digest import bundles_digest

Records = list[Record]
Plant = Callable[[Records, random.Random], Records | None]


def _transfers(records: Records) -> list[tuple[int, Received, Transfer]]:
    """The transfers that come in one message, with their places."""
    return [
        (place, record, record.transfer)
        for place, record in enumerate(records)
        if isinstance(record, Received)
        and record.transfer is not None
        and record.transfer.start is not None
        and record.transfer.synced is not None
    ]


def _deltas(records: Records) -> list[tuple[int, Received, Transfer]]:
    """Those of them that bring changes to a stream that is level already."""
    level: set[tuple[str, str]] = set()
    found: list[tuple[int, Received, Transfer]] = []
    for place, record, transfer in _transfers(records):
        key = (record.stream, transfer.tenant)
        if key in level and transfer.start is not None and transfer.start.intent == "DELTA":
            found.append((place, record, transfer))
        level.add(key)
    return found


def _firsts(records: Records) -> list[tuple[int, Received, Transfer, Subscribed]]:
    """The first transfers of tenants on their streams that come in one message."""
    streams = _streams(records)
    seen: set[tuple[str, str]] = set()
    found: list[tuple[int, Received, Transfer, Subscribed]] = []
    for place, record in enumerate(records):
        if not isinstance(record, Received) or record.transfer is None:
            continue
        transfer, key = record.transfer, (record.stream, record.transfer.tenant)
        if key not in seen and transfer.synced is not None:
            found.append((place, record, transfer, streams[record.stream]))
        seen.add(key)
    return found


def _renumbered(records: Records) -> Records:
    """Every stream's messages count from 1."""
    counts: dict[str, int] = {}
    result: Records = []
    for record in records:
        if isinstance(record, Received):
            counts[record.stream] = counts.get(record.stream, 0) + 1
            record = replace(record, nonce=str(counts[record.stream]))
        result.append(record)
    return result


def _with(records: Records, place: int, *instead: Record) -> Records:
    """The history with other records at a place."""
    return _renumbered([*records[:place], *instead, *records[place + 1 :]])


def _streams(records: Records) -> dict[str, Subscribed]:
    return {record.stream: record for record in records if isinstance(record, Subscribed)}


def lost_event(records: Records, chance: random.Random) -> Records | None:
    """A change is left out of a message that says it has come."""
    places = [found for found in _deltas(records) if found[2].bundles]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    bundles = list(transfer.bundles)
    bundles.pop(chance.randrange(len(bundles)))
    return _with(records, place, replace(message, transfer=replace(transfer, bundles=bundles)))


def lost_message(records: Records, chance: random.Random) -> Records | None:
    """A whole message does not come, and the next goes on as if it had."""
    found = _deltas(records)
    places = [
        place
        for number, (place, message, transfer) in enumerate(found)
        if any(
            (later.stream, other.tenant) == (message.stream, transfer.tenant)
            for _, later, other in found[number + 1 :]
        )
    ]
    return _with(records, chance.choice(places)) if places else None


def lost_removal(records: Records, chance: random.Random) -> Records | None:
    """A removal is left out."""
    places = [found for found in _deltas(records) if found[2].removed]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    return _with(records, place, replace(message, transfer=replace(transfer, removed=[])))


def reordered(records: Records, chance: random.Random) -> Records | None:
    """Two messages of a stream come in the wrong order."""
    found = _deltas(records)
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
    found = [one for one in _deltas(records) if one[2].bundles]
    if not found:
        return None
    place, message, _ = chance.choice(found)
    return _with(records, place, message, message)


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
    return _with(records, place, replace(message, transfer=replace(transfer, bundles=bundles)))


def _is_of(name: str, tenant: str) -> bool:
    return name.startswith(f"tenants/{tenant}/")


def torn_revision(records: Records, chance: random.Random) -> Records | None:
    """A revision of two changes comes in two transfers: the first brings one of
    them, and the digest of what it leaves behind."""
    logs = logs_of(records)
    streams = _streams(records)
    places = [
        found
        for found in _deltas(records)
        if sum(bundle.revision == found[2].at.number for bundle in found[2].bundles) > 1
    ]
    if not places:
        return None
    place, message, transfer = chance.choice(places)
    at, start = transfer.at, transfer.start
    assert start is not None
    log = logs.get(at.epoch, transfer.tenant)
    late = next(bundle for bundle in reversed(transfer.bundles) if bundle.revision == at.number)
    request = streams[message.stream]
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
    return _with(records, place, replace(message, transfer=first), replace(message, transfer=rest))


def stale_full(records: Records, chance: random.Random) -> Records | None:
    """A client that comes back is sent all, as it was before what it has."""
    logs = logs_of(records)
    places: list[tuple[Subscribed, int, Received, Transfer, int]] = []
    for place, message, transfer, request in _firsts(records):
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
    return _with(records, place, replace(message, transfer=old))


def write_lost(records: Records, chance: random.Random) -> Records | None:
    """The newest entry of a log is gone, and it was acknowledged."""
    logs = logs_of(records)
    acknowledged = {
        (record.request_id, record.at)
        for record in records
        if isinstance(record, Operation) and record.outcome == "ok" and record.request_id
    }
    gone = [
        log.entries[-1]
        for log in logs.by_tenant.values()
        if log.entries and (log.entries[-1].request_id, log.entries[-1].at) in acknowledged
    ]
    if not gone:
        return None
    lost = chance.choice(gone)
    return [record for record in records if record is not lost]


def write_twice(records: Records, chance: random.Random) -> Records | None:
    """A request is carried out again, at the head of the log."""
    logs = logs_of(records)
    entries = [entry for log in logs.by_tenant.values() for entry in log.entries if entry.request_id]
    if not entries:
        return None
    entry = chance.choice(entries)
    head = logs.get(entry.at.epoch, entry.tenant).entries[-1]
    again = replace(
        entry,
        at=At(head.at.number + 1, entry.at.epoch),
        hash="again",
        previous_hash=head.hash,
        agents={},
        time=head.time,
    )
    return [*records, again]


def gap_in_log(records: Records, chance: random.Random) -> Records | None:
    """An entry within the log is gone."""
    logs = logs_of(records)
    inner = [entry for log in logs.by_tenant.values() for entry in log.entries[:-1]]
    if not inner:
        return None
    lost = chance.choice(inner)
    return [record for record in records if record is not lost]


def entry_changed(records: Records, chance: random.Random) -> Records | None:
    """An entry is not what it was when the next was chained to it."""
    logs = logs_of(records)
    inner = [entry for log in logs.by_tenant.values() for entry in log.entries[:-1]]
    if not inner:
        return None
    changed = chance.choice(inner)
    return [
        replace(record, hash="changed") if record is changed and isinstance(record, Committed) else record
        for record in records
    ]


def read_from_the_past(records: Records, chance: random.Random) -> Records | None:
    """A read shows the state before a write that was acknowledged before it."""
    logs = logs_of(records)
    places: list[tuple[int, Operation, int]] = []
    for place, record in enumerate(records):
        if not isinstance(record, Operation) or record.call != "ListAgents" or record.at is None:
            continue
        before = [
            other.at.number
            for other in records
            if isinstance(other, Operation)
            and other.at is not None
            and (other.tenant, other.at.epoch) == (record.tenant, record.at.epoch)
            and other.end < record.start
        ]
        if before and max(before) > 0:
            places.append((place, record, max(before) - 1))
    if not places:
        return None
    place, read, past = chance.choice(places)
    assert read.at is not None
    state = logs.get(read.at.epoch, read.tenant).states[past]
    instead = replace(
        read,
        at=At(past, read.at.epoch),
        etags={agent: what.etag for agent, what in state.items()},
        deleted=[agent for agent, what in state.items() if what.deleted],
    )
    return _with(records, place, instead)


def answer_before_the_call(records: Records, chance: random.Random) -> Records | None:
    """A write with a later revision ended before one with an earlier began."""
    logs = logs_of(records)
    known = {
        (record.tenant, record.at): record
        for record in records
        if isinstance(record, Operation) and record.request_id
    }
    pairs = [
        (known[log.tenant, first.at], known[log.tenant, second.at])
        for log in logs.by_tenant.values()
        for first, second in pairwise(log.entries)
        if (log.tenant, first.at) in known and (log.tenant, second.at) in known
    ]
    if not pairs:
        return None
    first, second = chance.choice(pairs)
    late = second.end + 1.0
    return [
        replace(record, start=late, end=late + 0.01)
        if isinstance(record, Operation) and record.request_id == first.request_id
        else record
        for record in records
    ]


def wrong_digest(records: Records, chance: random.Random) -> Records | None:
    """The digest is that of something else."""
    found = _transfers(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    assert transfer.synced is not None
    wrong = replace(transfer, synced=replace(transfer.synced, digest=bundles_digest({"other": "x"})))
    return _with(records, place, replace(message, transfer=wrong))


def bookmark_ahead(records: Records, chance: random.Random) -> Records | None:
    """A bookmark comes before the changes that it covers."""
    logs = logs_of(records)
    streams = _streams(records)
    places: list[tuple[int, Received, Transfer]] = []
    for place, message, transfer in _deltas(records):
        request = streams[message.stream]
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
    return _with(records, place, early, replace(message, transfer=after))


def not_asked_for(records: Records, chance: random.Random) -> Records | None:
    """A message brings an agent that the watch does not name."""
    streams = _streams(records)
    found = [one for one in _transfers(records) if streams[one[1].stream].agent_ids]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    other = Bundle(bundle_name(transfer.tenant, "stranger"), "x", 1)
    wider = replace(transfer, bundles=[*transfer.bundles, other])
    return _with(records, place, replace(message, transfer=wider))


def other_tenant(records: Records, chance: random.Random) -> Records | None:
    """A message is about a tenant that is not watched."""
    streams = _streams(records)
    found = [one for one in _transfers(records) if streams[one[1].stream].tenant != "-"]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    return _with(records, place, replace(message, transfer=replace(transfer, tenant="stranger")))


def label_ignored(records: Records, chance: random.Random) -> Records | None:
    """An agent without the label that was asked for comes along."""
    logs = logs_of(records)
    streams = _streams(records)
    places: list[tuple[int, Received, Transfer, Bundle]] = []
    for place, message, transfer in _transfers(records):
        if not streams[message.stream].labels:
            continue
        log = logs.get(transfer.at.epoch, transfer.tenant)
        scope = Scope.of(transfer.tenant, [], streams[message.stream].labels)
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
    return _with(records, place, replace(message, transfer=wider))


def _resumed(records: Records) -> list[tuple[int, Received, Transfer, Subscribed]]:
    """First transfers to clients that declared what they have, in one message."""
    return [
        found for found in _firsts(records) if found[2].start is not None and found[2].start.intent != "FULL"
    ]


def resumed_elsewhere(records: Records, chance: random.Random) -> Records | None:
    """A resumed stream starts from another revision than was declared."""
    found = [one for one in _resumed(records) if one[2].start is not None and one[2].start.from_revision]
    if not found:
        return None
    place, message, transfer, _ = chance.choice(found)
    assert transfer.start is not None
    start = replace(transfer.start, from_revision=transfer.start.from_revision - 1)
    return _with(records, place, replace(message, transfer=replace(transfer, start=start)))


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
    return _with(records, place, replace(message, transfer=nothing))


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
    return _with(records, place, replace(message, transfer=full))


def epoch_ignored(records: Records, chance: random.Random) -> Records | None:
    """A client of another epoch is sent a delta."""
    streams = _streams(records)
    found = [
        one
        for one in _transfers(records)
        if (had := streams[one[1].stream].start_revisions.get(one[2].tenant)) is not None
        and had.epoch != one[2].at.epoch
        and one[2].start is not None
        and one[2].start.intent == "FULL"
    ]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    had = streams[message.stream].start_revisions[transfer.tenant]
    between = max(0, transfer.at.number - had.number - 1)
    delta = replace(transfer, start=Start("DELTA", "resumed", had.number, between))
    return _with(records, place, replace(message, transfer=delta))


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
    found = _deltas(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    assert transfer.start is not None
    start = replace(transfer.start, skipped=transfer.start.skipped + 1)
    return _with(records, place, replace(message, transfer=replace(transfer, start=start)))


def content_missing(records: Records, chance: random.Random) -> Records | None:
    """A bundle comes without the content that it names."""
    found = [one for one in _transfers(records) if one[2].bundles and one[2].contents]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    return _with(records, place, replace(message, transfer=replace(transfer, contents=[])))


def uncommitted_shown(records: Records, chance: random.Random) -> Records | None:
    """A stream shows a revision that the log does not have."""
    logs = logs_of(records)
    found = _transfers(records)
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    head = logs.get(transfer.at.epoch, transfer.tenant).head
    early = replace(transfer, at=At(head + 1, transfer.at.epoch))
    return _with(records, place, replace(message, transfer=early))


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
    return _with(records, place, replace(final, held=final.held | {tenant: stale}))


def future_refused(records: Records, chance: random.Random) -> Records | None:
    """A client is refused for a revision that it was sent."""
    found = [
        (place, record)
        for place, record in enumerate(records)
        if isinstance(record, Ended) and _streams(records)[record.stream].start_revisions
    ]
    if not found:
        return None
    place, end = chance.choice(found)
    return _with(records, place, replace(end, code="OUT_OF_RANGE", reason="REVISION_IN_FUTURE"))


def epoch_kept(records: Records, chance: random.Random) -> Records | None:
    """After the backup was restored a stream goes on in the old epoch."""
    epochs = [record for record in records if isinstance(record, EpochBegan)]
    if len(epochs) < 2:
        return None
    found = [one for one in _transfers(records) if one[2].at.epoch == epochs[-1].epoch]
    logs = logs_of(records)
    found = [one for one in found if one[2].at.number <= logs.get(epochs[0].epoch, one[2].tenant).head]
    if not found:
        return None
    place, message, transfer = chance.choice(found)
    old = replace(transfer, at=At(transfer.at.number, epochs[0].epoch))
    return _with(records, place, replace(message, transfer=old))


PLANTS: dict[Plant, frozenset[Property]] = {
    lost_event: frozenset({Property.RELIABLE, Property.ATOMIC}),
    lost_message: frozenset({Property.RELIABLE, Property.TRUTHFUL, Property.BOOKMARKABLE}),
    lost_removal: frozenset({Property.RELIABLE, Property.ATOMIC}),
    reordered: frozenset({Property.ORDERED}),
    duplicate: frozenset({Property.UNIQUE}),
    duplicate_bundle: frozenset({Property.UNIQUE}),
    torn_revision: frozenset({Property.ATOMIC}),
    stale_full: frozenset({Property.RESUMABLE}),
    write_lost: frozenset({Property.DURABLE}),
    write_twice: frozenset({Property.ONCE}),
    gap_in_log: frozenset({Property.CHAINED}),
    entry_changed: frozenset({Property.CHAINED}),
    read_from_the_past: frozenset({Property.LINEARIZABLE}),
    answer_before_the_call: frozenset({Property.LINEARIZABLE}),
    wrong_digest: frozenset({Property.PROVEN}),
    bookmark_ahead: frozenset({Property.BOOKMARKABLE}),
    not_asked_for: frozenset({Property.FILTERED}),
    other_tenant: frozenset({Property.FILTERED}),
    label_ignored: frozenset({Property.FILTERED}),
    resumed_elsewhere: frozenset({Property.RESUMABLE}),
    resumed_with_nothing: frozenset({Property.RESUMABLE, Property.RELIABLE, Property.ATOMIC}),
    needless_full: frozenset({Property.RESUMABLE}),
    epoch_ignored: frozenset({Property.RESUMABLE}),
    nonce_repeated: frozenset({Property.NUMBERED}),
    skipped_wrong: frozenset({Property.TRUTHFUL}),
    content_missing: frozenset({Property.COMPLETE}),
    uncommitted_shown: frozenset({Property.DURABLE}),
    left_behind: frozenset({Property.CONVERGED}),
    future_refused: frozenset({Property.RESUMABLE}),
    epoch_kept: frozenset({Property.ORDERED, Property.DURABLE}),
}
"""Each plant, and the properties of which at least one must be found broken."""
