"""Sessions and their turns."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sessions",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
    newest = ["started", "session_id"]
    op.create_index("sessions_started", "sessions", ["tenant_id", *newest])
    op.create_index("sessions_agent", "sessions", ["tenant_id", "agent_id", *newest])
    op.create_index("sessions_user", "sessions", ["tenant_id", "user_id", *newest])
    op.create_index("sessions_state", "sessions", ["tenant_id", "state", *newest])
    op.create_index("sessions_node", "sessions", ["state", "node_id"])
    op.create_index("sessions_changed", "sessions", ["changed"])
    op.create_table(
        "session_turns",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("turn", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
    )
