"""Everything: sources, collections, repositories, branches, tiles, scenes, assets, crawls.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.BigInteger().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("stac_url", sa.String(), nullable=True),
        sa.Column("dialect", sa.String(), nullable=True),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
        sa.UniqueConstraint("name", name=op.f("uq_collections_name")),
    )
    op.create_table(
        "repositories",
        sa.Column("id", KEY, nullable=False),
        sa.Column("uid", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=False),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repositories")),
        sa.UniqueConstraint("uid", name=op.f("uq_repositories_uid")),
    )
    op.create_table(
        "sources",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("match", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=True),
        sa.Column("endpoint", sa.String(), nullable=True),
        sa.Column("anonymous", sa.Boolean(), nullable=False),
        sa.Column("requester_pays", sa.Boolean(), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
        sa.UniqueConstraint("name", name=op.f("uq_sources_name")),
    )
    op.create_table(
        "tiles",
        sa.Column("tile", NAME, nullable=False),
        sa.Column("minx", sa.Double(), nullable=False),
        sa.Column("miny", sa.Double(), nullable=False),
        sa.Column("maxx", sa.Double(), nullable=False),
        sa.Column("maxy", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tile", name=op.f("pk_tiles")),
    )
    op.create_table(
        "watches",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("query", DOCUMENT, nullable=False),
        sa.Column("watermark", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_watches")),
        sa.UniqueConstraint("name", name=op.f("uq_watches_name")),
    )
    op.create_table(
        "branches",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repository_id", KEY, nullable=False),
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("tile", NAME, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("epsg", sa.Integer(), nullable=False),
        sa.Column("origin_x", sa.Double(), nullable=True),
        sa.Column("origin_y", sa.Double(), nullable=True),
        sa.Column("head_snapshot", sa.String(), nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_branches_collection_id")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_branches_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_branches")),
        sa.UniqueConstraint("repository_id", "name", name=op.f("uq_branches_repository_id_name")),
    )
    op.create_index(op.f("ix_branches_collection_id"), "branches", ["collection_id"], unique=False)
    op.create_table(
        "crawls",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repository_id", KEY, nullable=True),
        sa.Column("watch_id", KEY, nullable=True),
        sa.Column("query", DOCUMENT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("watermark", INSTANT, nullable=True),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("new", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("indexed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("withdrawn", sa.Integer(), nullable=False),
        sa.Column("commits", sa.Integer(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_crawls_repository_id")
        ),
        sa.ForeignKeyConstraint(
            ["watch_id"], ["watches.id"], name=op.f("fk_crawls_watch_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crawls")),
    )
    op.create_index(op.f("ix_crawls_watch_id"), "crawls", ["watch_id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("repository_id", KEY, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("acquired_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_leases_repository_id")
        ),
        sa.PrimaryKeyConstraint("repository_id", name=op.f("pk_leases")),
    )
    op.create_table(
        "item_failures",
        sa.Column("repository_id", KEY, nullable=False),
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("item_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("failed_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=False),
        sa.Column("crawl_id", KEY, nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_item_failures_collection_id")
        ),
        sa.ForeignKeyConstraint(
            ["crawl_id"], ["crawls.id"], name=op.f("fk_item_failures_crawl_id")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_item_failures_repository_id")
        ),
        sa.PrimaryKeyConstraint(
            "repository_id", "collection_id", "item_id", name=op.f("pk_item_failures")
        ),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("branch_id", KEY, nullable=False),
        sa.Column("written_at", INSTANT, nullable=False),
        sa.Column("crawl_id", KEY, nullable=True),
        sa.Column("scenes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["branch_id"], ["branches.id"], name=op.f("fk_snapshots_branch_id")
        ),
        sa.ForeignKeyConstraint(["crawl_id"], ["crawls.id"], name=op.f("fk_snapshots_crawl_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_index(op.f("ix_snapshots_branch_id"), "snapshots", ["branch_id"], unique=False)
    op.create_table(
        "scenes",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repository_id", KEY, nullable=False),
        sa.Column("collection_id", KEY, nullable=False),
        sa.Column("item_id", NAME, nullable=False),
        sa.Column("tile", NAME, nullable=False),
        sa.Column("epsg", sa.Integer(), nullable=False),
        sa.Column("href_prefix", sa.String(), nullable=False),
        sa.Column("wanted_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("wanted", DOCUMENT, nullable=True),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("next_attempt_at", INSTANT, nullable=True),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("datetime", INSTANT, nullable=False),
        sa.Column("platform", sa.String(), nullable=True),
        sa.Column("cloud_cover", sa.Double(), nullable=True),
        sa.Column("baseline", sa.String(), nullable=True),
        sa.Column("footprint", sa.LargeBinary(), nullable=False),
        sa.Column("minx", sa.Double(), nullable=False),
        sa.Column("miny", sa.Double(), nullable=False),
        sa.Column("maxx", sa.Double(), nullable=False),
        sa.Column("maxy", sa.Double(), nullable=False),
        sa.Column("created", INSTANT, nullable=True),
        sa.Column("updated", INSTANT, nullable=True),
        sa.Column("boa_offset", sa.SmallInteger(), nullable=False),
        sa.Column("boa_evidence", sa.String(), nullable=False),
        sa.Column("warnings", DOCUMENT, nullable=False),
        sa.Column("item_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("branch_id", KEY, nullable=True),
        sa.Column("root", sa.String(), nullable=True),
        sa.Column("time_index", sa.Integer(), nullable=True),
        sa.Column("snapshot_id", sa.String(), nullable=True),
        sa.Column("refs_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("crawl_id", KEY, nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'indexed', 'failed', 'withdrawn')", name=op.f("ck_scenes_status")
        ),
        sa.CheckConstraint(
            "status NOT IN ('indexed', 'withdrawn') OR (branch_id IS NOT NULL AND root IS NOT NULL"
            " AND time_index IS NOT NULL AND snapshot_id IS NOT NULL AND refs_sha256 IS NOT NULL)",
            name=op.f("ck_scenes_located"),
        ),
        sa.CheckConstraint("minx <= maxx AND miny <= maxy", name=op.f("ck_scenes_box")),
        sa.ForeignKeyConstraint(["branch_id"], ["branches.id"], name=op.f("fk_scenes_branch_id")),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_scenes_collection_id")
        ),
        sa.ForeignKeyConstraint(["crawl_id"], ["crawls.id"], name=op.f("fk_scenes_crawl_id")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_scenes_repository_id")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_scenes_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scenes")),
        sa.UniqueConstraint(
            "branch_id", "root", "time_index", name=op.f("uq_scenes_branch_id_root_time_index")
        ),
        sa.UniqueConstraint(
            "item_id",
            "collection_id",
            "repository_id",
            name=op.f("uq_scenes_item_id_collection_id_repository_id"),
        ),
    )
    op.create_index(op.f("ix_scenes_datetime"), "scenes", ["datetime"], unique=False)
    op.create_index(op.f("ix_scenes_recorded_at"), "scenes", ["recorded_at"], unique=False)
    op.create_index(op.f("ix_scenes_snapshot_id"), "scenes", ["snapshot_id"], unique=False)
    op.create_index(
        op.f("ix_scenes_outstanding"),
        "scenes",
        ["status", "next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("wanted_sha256 IS NOT NULL"),
        postgresql_where=sa.text("wanted_sha256 IS NOT NULL"),
    )
    op.create_index(op.f("ix_scenes_tile_datetime"), "scenes", ["tile", "datetime"], unique=False)
    op.create_index(op.f("ix_scenes_updated"), "scenes", ["updated"], unique=False)
    op.create_table(
        "assets",
        sa.Column("scene_id", KEY, nullable=False),
        sa.Column("band", NAME, nullable=False),
        sa.Column("href", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.LargeBinary(), nullable=True),
        sa.Column("last_modified", INSTANT, nullable=True),
        sa.Column("checksum", sa.LargeBinary(), nullable=True),
        sa.Column("header_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("header_length", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["scene_id"], ["scenes.id"], name=op.f("fk_assets_scene_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("scene_id", "band", name=op.f("pk_assets")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "scene_revisions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("scene_id", KEY, nullable=False),
        sa.Column("assets", DOCUMENT, nullable=False),
        sa.Column("replaced_at", INSTANT, nullable=False),
        sa.Column("revision", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("datetime", INSTANT, nullable=False),
        sa.Column("platform", sa.String(), nullable=True),
        sa.Column("cloud_cover", sa.Double(), nullable=True),
        sa.Column("baseline", sa.String(), nullable=True),
        sa.Column("footprint", sa.LargeBinary(), nullable=False),
        sa.Column("minx", sa.Double(), nullable=False),
        sa.Column("miny", sa.Double(), nullable=False),
        sa.Column("maxx", sa.Double(), nullable=False),
        sa.Column("maxy", sa.Double(), nullable=False),
        sa.Column("created", INSTANT, nullable=True),
        sa.Column("updated", INSTANT, nullable=True),
        sa.Column("boa_offset", sa.SmallInteger(), nullable=False),
        sa.Column("boa_evidence", sa.String(), nullable=False),
        sa.Column("warnings", DOCUMENT, nullable=False),
        sa.Column("item_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("branch_id", KEY, nullable=True),
        sa.Column("root", sa.String(), nullable=True),
        sa.Column("time_index", sa.Integer(), nullable=True),
        sa.Column("snapshot_id", sa.String(), nullable=True),
        sa.Column("refs_sha256", sa.LargeBinary(), nullable=True),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("crawl_id", KEY, nullable=True),
        sa.ForeignKeyConstraint(
            ["branch_id"], ["branches.id"], name=op.f("fk_scene_revisions_branch_id")
        ),
        sa.ForeignKeyConstraint(
            ["crawl_id"], ["crawls.id"], name=op.f("fk_scene_revisions_crawl_id")
        ),
        sa.ForeignKeyConstraint(
            ["scene_id"],
            ["scenes.id"],
            name=op.f("fk_scene_revisions_scene_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_scene_revisions_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scene_revisions")),
        sa.UniqueConstraint(
            "scene_id", "revision", name=op.f("uq_scene_revisions_scene_id_revision")
        ),
    )
    op.create_index(
        op.f("ix_scene_revisions_snapshot_id"), "scene_revisions", ["snapshot_id"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_scene_revisions_snapshot_id"), table_name="scene_revisions")
    op.drop_table("scene_revisions")
    op.drop_table("assets")
    op.drop_index(op.f("ix_scenes_updated"), table_name="scenes")
    op.drop_index(op.f("ix_scenes_tile_datetime"), table_name="scenes")
    op.drop_index(op.f("ix_scenes_outstanding"), table_name="scenes")
    op.drop_index(op.f("ix_scenes_snapshot_id"), table_name="scenes")
    op.drop_index(op.f("ix_scenes_recorded_at"), table_name="scenes")
    op.drop_index(op.f("ix_scenes_datetime"), table_name="scenes")
    op.drop_table("scenes")
    op.drop_index(op.f("ix_snapshots_branch_id"), table_name="snapshots")
    op.drop_table("snapshots")
    op.drop_table("item_failures")
    op.drop_table("leases")
    op.drop_index(op.f("ix_crawls_watch_id"), table_name="crawls")
    op.drop_table("crawls")
    op.drop_index(op.f("ix_branches_collection_id"), table_name="branches")
    op.drop_table("branches")
    op.drop_table("watches")
    op.drop_table("tiles")
    op.drop_table("sources")
    op.drop_table("repositories")
    op.drop_table("collections")
