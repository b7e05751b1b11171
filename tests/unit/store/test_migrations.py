"""The migrations arrive at the tables that tables.py defines."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

import control_plane.store.migrations as migrations
from control_plane.store.migrations import upgrade
from control_plane.store.tables import metadata

type_checks = {"compare_type": True, "compare_server_default": True}


@pytest.fixture
def engine(tmp_path: Path) -> Generator[Engine]:
    """A new database."""
    made = create_engine(f"sqlite:///{tmp_path}/new.db")
    yield made
    made.dispose()


def shape(engine: Engine) -> dict[str, object]:
    """Columns, keys and indexes of all tables but alembic's own."""
    inspector = inspect(engine)
    return {
        table: (
            [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted((i["name"], i["column_names"], i["unique"]) for i in inspector.get_indexes(table)),
        )
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_migrated_tables_are_the_defined_ones(engine: Engine, tmp_path: Path) -> None:
    """A migrated database has the columns, types, keys and indexes of one that
    is made from tables.py."""
    with engine.begin() as connection:
        upgrade(connection)
        context = MigrationContext.configure(connection, opts=type_checks)
        assert compare_metadata(context, metadata) == []
    defined = create_engine(f"sqlite:///{tmp_path}/defined.db")
    metadata.create_all(defined)
    assert shape(engine) == shape(defined)
    log = {"entries", "heads", "meta", "requests", "snapshots"}
    assert set(shape(engine)) == log | {"sessions", "session_turns"}
    defined.dispose()


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    """A database that is up to date is left as it is."""
    with engine.begin() as connection:
        upgrade(connection)
    before = shape(engine)
    with engine.begin() as connection:
        upgrade(connection)
    assert shape(engine) == before


def test_migrations_are_one_line(engine: Engine) -> None:
    """There is one newest migration, and the database is at it."""
    (newest,) = ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads()
    with engine.begin() as connection:
        upgrade(connection)
        assert MigrationContext.configure(connection).get_current_revision() == newest


def test_the_tables_suit_postgresql() -> None:
    """The same definition compiles for PostgreSQL, with types of its own."""
    text = str(CreateTable(metadata.tables["entries"]).compile(dialect=postgresql.dialect()))
    assert "revision BIGINT NOT NULL" in text
    assert "entry BYTEA NOT NULL" in text
    assert "PRIMARY KEY (tenant_id, revision)" in text
