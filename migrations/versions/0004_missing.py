"""Bands of a scene that are not indexed, since their files cannot be read.

Revision: 0004, after 0003. Scenes recorded before lack none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LIST = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    for table in ("scenes", "scene_revisions"):
        op.add_column(table, sa.Column("missing", LIST, nullable=True))


def downgrade() -> None:
    for table in ("scenes", "scene_revisions"):
        op.drop_column(table, "missing")
