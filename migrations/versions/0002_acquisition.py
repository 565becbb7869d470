"""Which acquisition a scene is, so that one that is offered twice is found; earlier states by time.

Revision: 0002, after 0001. Scenes recorded before have none until their item changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    for table in ("scenes", "scene_revisions"):
        op.add_column(table, sa.Column("acquisition", NAME, nullable=True))
    op.create_index(
        op.f("ix_scenes_acquisition_tile"), "scenes", ["acquisition", "tile"], unique=False
    )
    op.create_index(
        op.f("ix_scene_revisions_recorded_at"), "scene_revisions", ["recorded_at"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_scene_revisions_recorded_at"), table_name="scene_revisions")
    op.drop_index(op.f("ix_scenes_acquisition_tile"), table_name="scenes")
    for table in ("scene_revisions", "scenes"):
        op.drop_column(table, "acquisition")
