"""Snapshots as bytes, in pieces."""

from __future__ import annotations

from contextlib import suppress

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from control_plane.store.snapshot_bytes import PIECE_BYTES, decode_snapshot, encode_snapshot
from voxplane.storage.v1 import log_pb2


@st.composite
def snapshots(draw: st.DrawFn) -> log_pb2.Snapshot:
    """Snapshots of all sizes; some resources are larger than a piece."""
    made = log_pb2.Snapshot(
        tenant_id=draw(st.text(max_size=5)),
        revision=draw(st.integers(0, 2**63 - 1)),
        hash=draw(st.binary(max_size=40)),
    )
    if draw(st.booleans()):
        made.time.seconds = draw(st.integers(0, 2**32))
    for size in draw(st.lists(st.sampled_from([0, 1, 127, 128, 5000, PIECE_BYTES * 2]), max_size=70)):
        made.resources.add().agent.display_name = "x" * size
    return made


@given(snapshots())
def test_pieces_are_the_whole(snapshot: log_pb2.Snapshot) -> None:
    """What is made in pieces is the message, for protobuf too; what protobuf
    has made is read."""
    encoded = encode_snapshot(snapshot)
    assert log_pb2.Snapshot.FromString(encoded) == snapshot
    assert decode_snapshot(encoded) == snapshot
    assert decode_snapshot(snapshot.SerializeToString()) == snapshot


@given(st.binary(max_size=60))
def test_what_is_no_snapshot_is_refused(encoded: bytes) -> None:
    """Any bytes are a message or a DecodeError, as protobuf has it; groups,
    which no snapshot has, are an error."""
    try:
        expected = log_pb2.Snapshot.FromString(encoded)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode_snapshot(encoded)
    else:
        with suppress(DecodeError):
            assert decode_snapshot(encoded) == expected


def test_a_snapshot_that_was_cut_off_is_refused() -> None:
    """Half a snapshot is not half a state."""
    whole = encode_snapshot(
        log_pb2.Snapshot(tenant_id="acme", revision=300, resources=[log_pb2.Resource()] * 3)
    )
    assert decode_snapshot(whole).revision == 300
    with pytest.raises(DecodeError):
        decode_snapshot(whole[:-1])
