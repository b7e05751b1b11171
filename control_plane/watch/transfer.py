"""What to send to a client so that it has what the server has. All of it is pure.

What a client has of a tenant is either `Declared`, as it said when it came, or
a `Level`: where the last transfer has left it. Both compare by value, and a
level is shared by all clients that came the same way, so that a transfer is
planned once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from control_plane.state import BundleRecord, TenantState
from control_plane.watch.scope import Scope
from voxplane.digest import bundles_digest
from voxplane.names import AgentName, TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import revision_pb2

SPARE_CONTENTS_MAX = 256
"""Contents that a stream remembers to have sent, beyond those in use. Clients
keep many more; what is forgotten here is at worst sent again."""

ITEM_BYTES_EXTRA = 6
"""Tag and length of one item, at most."""

_Kind = sync_pb2.ConfigTransfer
Etags = tuple[tuple[AgentName, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tenant's state as a scope shows it. It is equal to itself alone."""

    tenant_id: TenantId
    revision: revision_pb2.Revision
    bundles: Mapping[AgentName, BundleRecord]
    contents: Mapping[str, bytes]
    digest: str
    floor: int

    @property
    def number(self) -> int:
        """The tenant's revision."""
        return self.revision.number

    @property
    def epoch(self) -> str:
        """The store's epoch."""
        return self.revision.epoch


@dataclass(frozen=True, slots=True)
class Declared:
    """What a client says that it has of a tenant. `revision` is None if it
    did not say; `etags` are pairs of name and etag, and so are `refused`,
    which the server knows by the client's reports."""

    revision: int | None = None
    epoch: str = ""
    etags: frozenset[tuple[str, str]] = frozenset()
    contents: frozenset[str] = frozenset()
    refused: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Level:
    """Where a client is: it has all of `view`. `known` are the hashes of the
    contents that it has declared or was sent, `unsent` the bundles that it
    had before the stream began. `told` is the revision that the client knows
    of: an earlier one, while it was not told that no bundle has changed."""

    view: View
    known: frozenset[str]
    unsent: frozenset[AgentName]
    told: int

    @property
    def revision(self) -> revision_pb2.Revision:
        """The revision that the client is level with."""
        return self.view.revision

    @property
    def bundles(self) -> Mapping[AgentName, BundleRecord]:
        """The bundles that the client has."""
        return self.view.bundles

    def all_told(self) -> Level:
        """The level when the client has been told of its revision."""
        return replace(self, told=self.view.number)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Part:
    """One message of a transfer. `items` are pairs of a field number of
    ConfigTransfer and the field's bytes. It is equal to itself alone."""

    tenant_id: TenantId
    revision: revision_pb2.Revision
    start: sync_pb2.TransferStart | None
    items: tuple[tuple[int, bytes], ...]
    synced: sync_pb2.Synced | None
    withheld: Etags = ()
    tenant_removed: bool = False

    @property
    def size(self) -> int:
        """Bytes of its items."""
        return sum(len(item) for _, item in self.items)


@dataclass(frozen=True, slots=True)
class Difference:
    """What a client lacks. `wanted` are the hashes of the contents that the
    changed bundles need, `kept` the bundles that the client has already, and
    `withheld` those that it has refused."""

    intent: sync_pb2.TransferIntent
    reason: str
    from_revision: int
    changed: tuple[BundleRecord, ...]
    removed: tuple[AgentName, ...]
    wanted: tuple[str, ...]
    kept: frozenset[AgentName] = frozenset()
    withheld: Etags = ()

    @property
    def is_nothing(self) -> bool:
        """Whether a client that is already level need not be sent anything."""
        return self.intent != sync_pb2.TRANSFER_INTENT_FULL and not (self.changed or self.removed)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The messages to send, if any, and where they leave the client."""

    parts: tuple[Part, ...]
    after: Level
    removed: tuple[AgentName, ...] = field(default=())

    @property
    def is_full(self) -> bool:
        """Whether it replaces all that the client has."""
        start = self.parts[0].start if self.parts else None
        return start is not None and start.intent == sync_pb2.TRANSFER_INTENT_FULL

    @property
    def size(self) -> int:
        """Bytes of its items."""
        return sum(part.size for part in self.parts)


def view_of(state: TenantState, scope: Scope) -> View:
    """The state as a scope shows it."""
    bundles = state.bundles
    if not scope.is_everything:
        bundles = {name: record for name, record in bundles.items() if scope.covers(record)}
    digest = bundles_digest({name: record.etag for name, record in bundles.items()})
    return View(state.tenant_id, state.revision_message(), bundles, state.contents, digest, state.floor)


def from_declared(have: Declared, view: View) -> Difference:
    """What a client that has just come lacks."""
    etags = dict(have.etags)
    if have.revision is None:
        return _full(view, "no start revision")
    if have.epoch not in ("", view.epoch):
        return _full(view, "the client's epoch is not the store's")
    if have.revision < view.floor:
        return _full(view, f"history before {view.floor} is compacted")
    if not etags and view.bundles:
        return _full(view, "no known bundles")
    other = [record for name, record in view.bundles.items() if etags.get(name) != record.etag]
    refused = dict(have.refused)
    changed = tuple(record for record in other if refused.get(record.name) != record.etag)
    withheld = tuple((r.name, r.etag) for r in other if refused.get(r.name) == r.etag)
    removed = tuple(sorted(AgentName(name) for name in etags if name not in view.bundles))
    unsent = frozenset(name for name, _ in withheld)
    wanted = _contents_of(record for name, record in view.bundles.items() if name not in unsent)
    missing = any(content not in have.contents for content in wanted)
    kept = frozenset(view.bundles).difference(record.name for record in changed)
    if changed or removed or missing or withheld:
        intent, reason = sync_pb2.TRANSFER_INTENT_DELTA, f"resumed at {have.revision}"
    else:
        intent, reason = sync_pb2.TRANSFER_INTENT_NONE, "nothing has changed"
    return Difference(intent, reason, have.revision, changed, removed, wanted, kept, withheld)


def from_level(have: Level, view: View) -> Difference:
    """What a client that was level with an earlier view lacks."""
    old = have.view
    if old.epoch != view.epoch:
        return _full(view, "the store's epoch has changed")
    changed = tuple(record for name, record in view.bundles.items() if _is_new(old.bundles.get(name), record))
    removed = tuple(sorted(name for name in old.bundles if name not in view.bundles))
    return Difference(
        sync_pb2.TRANSFER_INTENT_DELTA,
        f"changed since {have.told}",
        have.told,
        changed,
        removed,
        _contents_of(changed),
    )


def missing_contents(difference: Difference, known: frozenset[str]) -> tuple[str, ...]:
    """The hashes of the contents that have to go along."""
    return tuple(content for content in difference.wanted if content not in known)


def level_after(difference: Difference, have: Declared | Level, view: View) -> Level:
    """Where the client is when it has taken the transfer."""
    known = have.contents if isinstance(have, Declared) else have.known
    if not known.issuperset(difference.wanted):
        known = known.union(difference.wanted)
    if len(known) > len(view.contents) + SPARE_CONTENTS_MAX:
        # Not all of the view's: what is withheld was not sent.
        known = known.intersection(_contents_of(view.bundles.values()))
    unsent = difference.kept
    if isinstance(have, Level) and have.unsent:
        unsent = have.unsent.difference((record.name for record in difference.changed), difference.removed)
    told = view.number
    if isinstance(have, Level) and difference.is_nothing:
        told = have.told
    return Level(view, known, unsent, told)


def split(
    difference: Difference, missing: Iterable[str], view: View, part_bytes_max: int
) -> tuple[Part, ...]:
    """The messages of the transfer: as few as the limit allows, `start` in
    the first and `synced` in the last. An item above the limit goes alone."""
    items = [(_Kind.CONTENTS_FIELD_NUMBER, view.contents[content]) for content in missing]
    items += [(_Kind.BUNDLES_FIELD_NUMBER, record.encoded) for record in difference.changed]
    items += [(_Kind.REMOVED_FIELD_NUMBER, name.encode()) for name in difference.removed]
    batches: list[list[tuple[int, bytes]]] = [[]]
    size = 0
    for item in items:
        need = len(item[1]) + ITEM_BYTES_EXTRA
        if batches[-1] and size + need > part_bytes_max:
            batches.append([])
            size = 0
        batches[-1].append(item)
        size += need
    start = sync_pb2.TransferStart(
        intent=difference.intent, reason=difference.reason, from_revision=difference.from_revision
    )
    if difference.intent != sync_pb2.TRANSFER_INTENT_FULL:
        start.skipped_revisions = max(0, view.number - difference.from_revision - 1)
    synced = sync_pb2.Synced(digest=view.digest, bundle_count=len(view.bundles))
    last = len(batches) - 1
    return tuple(
        Part(
            view.tenant_id,
            view.revision,
            None if number else start,
            tuple(batch),
            synced if number == last else None,
            () if number else difference.withheld,
        )
        for number, batch in enumerate(batches)
    )


def farewell(
    tenant_id: TenantId, revision: revision_pb2.Revision, removed: Iterable[AgentName], reason: str
) -> Part:
    """The message by which a tenant goes from a stream."""
    names = tuple(sorted(removed))
    return Part(
        tenant_id,
        revision,
        sync_pb2.TransferStart(
            intent=sync_pb2.TRANSFER_INTENT_DELTA, reason=reason, from_revision=revision.number
        ),
        tuple((_Kind.REMOVED_FIELD_NUMBER, name.encode()) for name in names),
        sync_pb2.Synced(digest=bundles_digest({}), bundle_count=0),
        tenant_removed=True,
    )


def _full(view: View, reason: str) -> Difference:
    changed = tuple(view.bundles.values())
    return Difference(sync_pb2.TRANSFER_INTENT_FULL, reason, 0, changed, (), _contents_of(changed))


def _is_new(old: BundleRecord | None, new: BundleRecord) -> bool:
    return old is not new and (old is None or old.etag != new.etag)


def _contents_of(records: Iterable[BundleRecord]) -> tuple[str, ...]:
    hashes = (version.content_hash for record in records for version in record.bundle.versions)
    return tuple(dict.fromkeys(hashes))
