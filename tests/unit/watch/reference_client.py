"""A client of WatchConfig that trusts nothing: it checks every message."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from voxplane.digest import bundles_digest
from voxplane.names import split_agent_name
from voxplane.v1 import bundle_pb2, revision_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2


class ReferenceClient:
    """Holds tenants across streams; `request` resumes. `applied` are the
    (tenant, revision) pairs that took effect, in order; `torn` are tenants of
    which something was lost and not yet replaced, `gone` those that were
    removed from the stream."""

    def __init__(
        self, tenant_id: str, agent_ids: Iterable[str] = (), labels: Mapping[str, str] | None = None
    ) -> None:
        self.tenant_id = tenant_id
        self.agent_ids = list(agent_ids)
        self.labels = dict(labels or {})
        self.revisions: dict[str, revision_pb2.Revision] = {}
        self.bundles: dict[str, dict[str, bundle_pb2.AgentBundle]] = {}
        self.contents: dict[str, bundle_pb2.VersionContent] = {}
        self.applied: list[tuple[str, int]] = []
        self.intents: list[str] = []
        self.torn: set[str] = set()
        self.gone: list[str] = []
        self._forget_stream()

    def request(self, node_id: str = "") -> sync_pb2.WatchConfigRequest:
        """Begin a stream: what was unfinished on the last one is gone."""
        self._forget_stream()
        request = sync_pb2.WatchConfigRequest(
            tenant_id=self.tenant_id,
            agent_ids=self.agent_ids,
            agent_labels=self.labels,
            known_contents=sorted(self.contents),
        )
        for tenant, revision in self.revisions.items():
            request.start_revisions[tenant].CopyFrom(revision)
        for bundles in self.bundles.values():
            request.known.update({name: bundle.etag for name, bundle in bundles.items()})
        if node_id:
            request.node.node_id = node_id
        self._declared = set(self.contents)
        return request

    def receive(self, data: bytes) -> sync_pb2.WatchConfigResponse:
        """Take one message. Raises AssertionError if it breaks the contract."""
        message = sync_pb2.WatchConfigResponse.FromString(data)
        assert int(message.nonce) == self._nonce + 1, "nonces count up by one"
        assert self._stream_id in ("", message.stream_id), "the stream keeps its id"
        self._nonce, self._stream_id = int(message.nonce), message.stream_id
        match message.WhichOneof("event"):
            case "heartbeat":
                self._heartbeat(message.heartbeat)
            case "transfer":
                self._part(message.transfer)
            case _:
                assert message.HasField("drain") or message.HasField("report_request")
        return message

    def lose(self, numbers: Collection[int]) -> None:
        """Lose bundles and contents, as a damaged disk does."""
        for tenant, bundles in self.bundles.items():
            for number, name in enumerate(sorted(bundles)):
                if number in numbers:
                    del bundles[name]
                    self.torn.add(tenant)
        for number, content in enumerate(sorted(self.contents)):
            if number in numbers:
                del self.contents[content]
                self.torn.update(self.bundles)

    def digest(self, tenant: str) -> str:
        """Digest of what is held of a tenant."""
        return bundles_digest({name: b.etag for name, b in self.bundles.get(tenant, {}).items()})

    def number(self, tenant: str) -> int:
        """The revision that is held of a tenant."""
        return self.revisions[tenant].number if tenant in self.revisions else 0

    def _forget_stream(self) -> None:
        self._nonce = 0
        self._stream_id = ""
        self._open: dict[str, list[sync_pb2.ConfigTransfer]] = {}
        self._declared: set[str] = set()
        self._sent: set[tuple[str, str]] = set()

    def _heartbeat(self, heartbeat: sync_pb2.Heartbeat) -> None:
        for tenant, revision in heartbeat.revisions.items():
            assert tenant not in self._open, "no bookmark within a transfer"
            assert revision.number > self.number(tenant), "a bookmark goes forward"
            self.revisions[tenant] = revision

    def _forget_tenant(self, tenant: str) -> None:
        self.bundles.pop(tenant, None)
        self.revisions.pop(tenant, None)
        self._sent = {key for key in self._sent if key[0] != tenant}
        self.gone.append(tenant)

    def _part(self, part: sync_pb2.ConfigTransfer) -> None:
        tenant = part.tenant_id
        assert self.tenant_id in ("-", tenant), "a tenant that was not asked for"
        if part.HasField("start"):
            assert tenant not in self._open, "a transfer ends before the next begins"
            self._open[tenant] = []
        assert tenant in self._open, "a transfer begins with its start"
        self._open[tenant].append(part)
        if part.HasField("synced"):
            self._apply(tenant, self._open.pop(tenant))

    def _apply(self, tenant: str, parts: list[sync_pb2.ConfigTransfer]) -> None:
        whole = sync_pb2.ConfigTransfer()
        for part in parts:
            assert part.revision == parts[0].revision, "one transfer, one revision"
            whole.MergeFrom(part)
        held = self.bundles.get(tenant, {})
        had = self.revisions.get(tenant)
        if whole.tenant_removed:
            assert set(whole.removed) == set(held), "all that was there is named"
            self._forget_tenant(tenant)
            return
        match whole.start.intent:
            case sync_pb2.TRANSFER_INTENT_FULL:
                held = {}
            case sync_pb2.TRANSFER_INTENT_DELTA:
                assert whole.start.from_revision == self.number(tenant), "no gap before a delta"
                gap = max(0, whole.revision.number - whole.start.from_revision - 1)
                assert whole.start.skipped_revisions == gap, "skipped revisions are declared"
            case _:
                brought = [*whole.bundles, *whole.removed, *whole.contents]
                assert not brought, "NONE brings nothing"
        if had is not None and had.epoch == whole.revision.epoch:
            assert whole.revision.number >= had.number, "never back"
        for content in whole.contents:
            key = (tenant, content.content_hash)
            assert key not in self._sent, "a content goes along once"
            assert content.content_hash not in self._declared, "what was declared does not go along"
            self._sent.add(key)
            self.contents[content.content_hash] = content
        names = [*whole.removed, *(bundle.name for bundle in whole.bundles)]
        assert len(names) == len(set(names)), "a name is there once"
        held = {name: bundle for name, bundle in held.items() if name not in whole.removed}
        for bundle in whole.bundles:
            owner, agent = split_agent_name(bundle.name)
            assert owner == tenant, "a bundle of another tenant"
            assert not self.agent_ids or agent in self.agent_ids, "a bundle outside the filter"
            assert self.labels.items() <= dict(bundle.labels).items(), "a bundle without the labels"
            assert bundle.revision <= whole.revision.number
            held[bundle.name] = bundle
        for bundle in held.values():
            for version in bundle.versions:
                assert version.content_hash in self.contents, "a bundle's contents are there with it"
        self.bundles[tenant] = held
        self.revisions[tenant] = whole.revision
        assert whole.synced.bundle_count == len(held)
        assert whole.synced.digest == self.digest(tenant), "the digest proves the transfer"
        self.torn.discard(tenant)
        self.applied.append((tenant, whole.revision.number))
        self.intents.append(sync_pb2.TransferIntent.Name(whole.start.intent).rsplit("_", 1)[1])
