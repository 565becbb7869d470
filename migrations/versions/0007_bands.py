"""Which bands of a scene are indexed, as bits of a number in the order of ``catalog/bands.py``.

Revision: 0007, after 0006. Filled from the files that are recorded; NULL where none are.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# In this order for good, whatever the package says later.
BANDS = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09",
    "cirrus", "swir16", "swir22", "visual", "scl", "aot", "wvp", "cloud", "snow",
)  # fmt: skip


def upgrade() -> None:
    lite = op.get_bind().dialect.name == "sqlite"
    if lite:
        files = "json_each(scene_revisions.assets) AS file"
        band = "json_extract(file.value, '$.band')"
    else:
        files = "jsonb_array_elements(scene_revisions.assets) AS file"
        band = "file ->> 'band'"
    for table in ("scenes", "scene_revisions"):
        op.add_column(table, sa.Column("bands", sa.Integer(), nullable=True))
    op.execute(
        f"UPDATE scenes SET bands = (SELECT {_sum('assets.band')} FROM assets "
        "WHERE assets.scene_id = scenes.id)"
    )
    op.execute(f"UPDATE scene_revisions SET bands = (SELECT {_sum(band)} FROM {files})")


def _sum(band: str) -> str:
    cases = " ".join(f"WHEN '{name}' THEN {1 << number}" for number, name in enumerate(BANDS))
    return f"NULLIF(SUM(CASE {band} {cases} ELSE 0 END), 0)"


def downgrade() -> None:
    for table in ("scenes", "scene_revisions"):
        op.drop_column(table, "bands")
