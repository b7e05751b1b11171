"""The tables of a store, the same for every SQL database.

Statements on the hot path are plain SQL; this is what the migrations must
arrive at, and a test holds them to it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("principal", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("entry", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

heads = Table(
    "heads",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("floor", BigInteger, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("response", LargeBinary, nullable=False),
    Column("expires", Float, nullable=False),
    Index("requests_expires", "expires"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("agent_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("state", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("changed", Float, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Index("sessions_started", "tenant_id", "started", "session_id"),
    Index("sessions_agent", "tenant_id", "agent_id", "started", "session_id"),
    Index("sessions_user", "tenant_id", "user_id", "started", "session_id"),
    Index("sessions_state", "tenant_id", "state", "started", "session_id"),
    Index("sessions_node", "state", "node_id"),
    Index("sessions_changed", "changed"),
)

session_turns = Table(
    "session_turns",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("turn", BigInteger, primary_key=True, autoincrement=False),
    Column("record", LargeBinary, nullable=False),
)
