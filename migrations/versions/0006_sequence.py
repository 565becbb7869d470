"""The order in which states were recorded, apart from what clocks said.

Revision: 0006, after 0004. What was recorded before is in the order of its times, which rose then.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = ("scenes", "scene_revisions")


def upgrade() -> None:
    lite = op.get_bind().dialect.name == "sqlite"

    def microseconds(column: str) -> str:
        # As it is kept in SQLite.
        return column if lite else f"CAST(EXTRACT(EPOCH FROM {column}) * 1000000 AS BIGINT)"

    def add(table: str, name: str, column: str) -> None:
        op.add_column(table, sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
        op.execute(f"UPDATE {table} SET {name} = {microseconds(column)}")

    for table in TABLES:
        add(table, "sequence", "recorded_at")
        op.drop_index(op.f(f"ix_{table}_recorded_at"), table)
        op.create_index(
            op.f(f"ix_{table}_sequence_recorded_at"), table, ["sequence", "recorded_at"]
        )
    add("scene_revisions", "replaced_by", "replaced_at")


def downgrade() -> None:
    op.drop_column("scene_revisions", "replaced_by")
    for table in TABLES:
        op.drop_index(op.f(f"ix_{table}_sequence_recorded_at"), table)
        op.create_index(op.f(f"ix_{table}_recorded_at"), table, ["recorded_at"])
        op.drop_column(table, "sequence")
