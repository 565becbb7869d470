"""What files hold at their full resolution: grid, type and nodata, for items that say so.

Revision: 0003, after 0002. Files recorded before have none until their scene is indexed again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
KEYED = {"sqlite_with_rowid": False}
UNIQUE = ("y", "x", "width", "height", "pixel_width", "pixel_height", "dtype", "nodata")


def upgrade() -> None:
    op.create_table(
        "rasters",
        sa.Column("id", KEY, nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("width", "height")),
        *(
            sa.Column(name, sa.Double(), nullable=False)
            for name in ("x", "y", "pixel_width", "pixel_height")
        ),
        *(sa.Column(name, NAME, nullable=False) for name in ("dtype", "nodata")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rasters")),
        sa.UniqueConstraint(*UNIQUE, name=op.f("uq_rasters_all")),
    )
    # SQLite copies the table: some minutes for a million scenes.
    with op.batch_alter_table("assets", table_kwargs=KEYED) as assets:
        assets.add_column(sa.Column("raster_id", KEY, nullable=True))
        assets.create_foreign_key(op.f("fk_assets_raster_id"), "rasters", ["raster_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("assets", table_kwargs=KEYED) as assets:
        assets.drop_constraint(op.f("fk_assets_raster_id"), type_="foreignkey")
        assets.drop_column("raster_id")
    op.drop_table("rasters")
