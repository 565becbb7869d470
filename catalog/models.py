"""Tables of the SQL catalog: one schema for SQLite and PostgreSQL. Knows no Icechunk.

What belongs together:

    sources      where hrefs are read                 repositories ─┐
    collections ─┬─ scenes ── assets ── rasters       branches ─────┴─ snapshots
                 │    └────── scene_revisions         crawls ── watches
                 └─ item_failures                     leases       tiles

A row of ``scenes`` has two halves. Its *state* (``SceneState``) describes what
is indexed: metadata, location and checksums change only together, in the
transaction that records a commit, so that pixels are never read with the
metadata of another processing baseline. Its *work* (``wanted_sha256``,
``attempts``, ``last_error``, ``next_attempt_at``) says what a crawl still has to
do. A changed item therefore leaves an indexed scene readable until its new
files are committed.

Longitudes: a footprint over the antimeridian goes beyond 180, so ``maxx`` may
exceed 180 and ``minx <= maxx`` always. Searches probe a box at -360, 0 and +360.

Every change here needs a migration; ``REVISION`` is the one this code is for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from catalog import portable_sql
from catalog.portable_sql import ETag, Hex, UtcDateTime, microseconds
from catalog.recorded import STATUSES

REVISION = "0007"
"""Alembic revision whose schema these models are; a test compares it with ``migrations/``."""

# SQLite only counts up by itself on a column declared exactly INTEGER.
_KEY = BigInteger().with_variant(Integer, "sqlite")
_LIST_OR_NULL = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Key = Annotated[int, mapped_column(_KEY, primary_key=True)]
Name = Annotated[str, mapped_column(portable_sql.Name)]
Digest = Annotated[str, mapped_column(Hex)]
Instant = Annotated[datetime, mapped_column(UtcDateTime)]
Small = Annotated[int, mapped_column(SmallInteger)]


def _microseconds(column: str) -> Callable[[Any], int]:
    """Where nothing else is said, the order is that of the clock, as it was before there was one
    apart from it: microseconds since 1970."""

    def sequence(context: Any) -> int:
        return microseconds(context.get_current_parameters()[column])

    return sequence


class Base(DeclarativeBase):
    """Declarative base: every constraint and index has a name a migration can rely on."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own protocol
        str: portable_sql.Text,
        int: Integer,
        float: Double,
        bytes: LargeBinary,
        dict[str, Any]: JSON().with_variant(JSONB, "postgresql"),
        list[Any]: JSON().with_variant(JSONB, "postgresql"),
    }


class SourceRow(Base):
    """A rule of where hrefs are read, as the last crawl saw it in the settings."""

    __tablename__ = "sources"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    """Of the virtual chunk container: part of every reference of the repository."""
    match: Mapped[str]
    url: Mapped[str]
    region: Mapped[str | None]
    endpoint: Mapped[str | None]
    anonymous: Mapped[bool]
    requester_pays: Mapped[bool]
    seen_at: Mapped[Instant]


class CollectionRow(Base):
    """A STAC collection. Its id is unique in a catalog, because branch names begin with it."""

    __tablename__ = "collections"
    id: Mapped[Key]
    name: Mapped[Name] = mapped_column(unique=True)
    """STAC's collection id."""
    stac_url: Mapped[str | None]
    """API it was last crawled from; None where items came from files only."""
    dialect: Mapped[str | None]
    registered_at: Mapped[Instant]


class RepositoryRow(Base):
    """An Icechunk repository this catalog writes to: what it holds is kept apart from others'."""

    __tablename__ = "repositories"
    id: Mapped[Key]
    uid: Mapped[str] = mapped_column(unique=True)
    """``Repository.id``: stays when it is moved, or addressed in another way."""
    location: Mapped[str]
    """Absolute path or ``s3://bucket/prefix``, without credentials, where it was last seen."""
    registered_at: Mapped[Instant]
    seen_at: Mapped[Instant]
    """When it was at ``location``; of two with the same, the later one is there."""


class BranchRow(Base):
    """A branch ``{collection}/{tile}``; ``head_snapshot`` is the last *recorded* head."""

    __tablename__ = "branches"
    id: Mapped[Key]
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), index=True)
    tile: Mapped[Name]
    name: Mapped[Name]
    epsg: Mapped[int]
    origin_x: Mapped[float | None]
    """Upper left corner of the grid, metres of ``epsg``; with a pixel size it is the transform."""
    origin_y: Mapped[float | None]
    head_snapshot: Mapped[str]
    updated_at: Mapped[Instant]
    __table_args__ = (UniqueConstraint("repository_id", "name"),)


class TileRow(Base):
    """Box of all footprints ever seen on a tile; it only grows.

    Degrees, in the tile's own frame (``tiles.tile_box``): tiles of the zones
    next to the antimeridian lie beyond 180 whole, so that no box spans the globe.
    """

    __tablename__ = "tiles"
    tile: Mapped[Name] = mapped_column(primary_key=True)
    minx: Mapped[float]
    miny: Mapped[float]
    maxx: Mapped[float]
    maxy: Mapped[float]


class SceneState:
    """What is known of a scene as one thing: it changes whole, and its past is kept whole."""

    revision: Mapped[Small] = mapped_column(default=0)
    """0 until indexed, then 1, and one more each time its place in the store is written anew."""
    status: Mapped[str]
    datetime: Mapped[Instant]
    platform: Mapped[str | None]
    cloud_cover: Mapped[float | None]
    baseline: Mapped[str | None]
    acquisition: Mapped[Name | None]
    """``Scene.acquisition``: the same for an acquisition that is offered twice."""
    footprint: Mapped[bytes]
    """WKB, EPSG:4326, longitude latitude."""
    minx: Mapped[float]
    miny: Mapped[float]
    maxx: Mapped[float]
    maxy: Mapped[float]
    created: Mapped[Instant | None]
    """The source's own, as is ``updated``."""
    updated: Mapped[Instant | None]
    boa_offset: Mapped[Small]
    boa_evidence: Mapped[str]
    warnings: Mapped[list[Any]]
    item_sha256: Mapped[Digest]
    branch_id: Mapped[int | None] = mapped_column(ForeignKey("branches.id"))
    root: Mapped[str | None]
    """Cube on the branch: ``""`` or ``variant-xxxx``; None until indexed."""
    time_index: Mapped[int | None]
    snapshot_id: Mapped[str | None] = mapped_column(ForeignKey("snapshots.id"))
    refs_sha256: Mapped[Digest | None]
    recorded_at: Mapped[Instant]
    """By the clock of whoever recorded it, which may have been wrong."""
    sequence: Mapped[int] = mapped_column(
        BigInteger, default=_microseconds("recorded_at"), server_default="0"
    )
    """The order in which states were recorded: rises with every transaction, whatever clocks say;
    ``records.Moment``."""
    crawl_id: Mapped[int | None] = mapped_column(ForeignKey("crawls.id"))
    """The crawl that recorded this state."""
    missing: Mapped[list[Any] | None] = mapped_column(_LIST_OR_NULL)
    """Bands of the item that are not indexed, since their files could not be read; NULL for
    none."""
    bands: Mapped[int | None]
    """That are indexed, as ``bands.band_bits`` has them; NULL where no file is recorded."""


class SceneRow(SceneState, Base):
    """One scene: what is indexed, and what is still to do."""

    __tablename__ = "scenes"
    id: Mapped[Key]
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    """Where it is indexed, or is to be: an item may be a scene in each of several."""
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"))
    item_id: Mapped[Name]
    tile: Mapped[Name]
    epsg: Mapped[int]
    href_prefix: Mapped[str] = mapped_column(default="")
    """Common beginning of its assets' hrefs, up to a ``/``."""
    wanted_sha256: Mapped[Digest | None]
    """SHA-256 of the item a crawl set out to index; None when nothing is outstanding."""
    wanted: Mapped[dict[str, Any] | None]
    """The scene that item is (``scene.scene_to_json``), for a crawl that died to be completed
    from the store and this row alone."""
    attempts: Mapped[Small] = mapped_column(default=0)
    """Failures in a row with the wanted item."""
    last_error: Mapped[str | None]
    next_attempt_at: Mapped[Instant | None]
    __table_args__ = (
        # Item first: ids are asked for without their collection.
        UniqueConstraint("item_id", "collection_id", "repository_id"),
        # One scene per place in a cube, whatever two crawls believe.
        UniqueConstraint("branch_id", "root", "time_index"),
        CheckConstraint(f"status IN {STATUSES}", name="status"),
        CheckConstraint(
            "status NOT IN ('indexed', 'withdrawn') OR (branch_id IS NOT NULL AND root IS NOT NULL"
            " AND time_index IS NOT NULL AND snapshot_id IS NOT NULL AND refs_sha256 IS NOT NULL)",
            name="located",
        ),
        CheckConstraint("minx <= maxx AND miny <= maxy", name="box"),
        Index(None, "tile", "datetime"),
        Index(None, "datetime"),
        # What is left to do, and nothing else: an index of every row by its status would
        # be what SQLite picks for most searches, since most ask for indexed scenes.
        Index(
            "ix_scenes_outstanding",
            "status",
            "next_attempt_at",
            sqlite_where=text("wanted_sha256 IS NOT NULL"),
            postgresql_where=text("wanted_sha256 IS NOT NULL"),
        ),
        Index(None, "updated"),
        Index(None, "sequence", "recorded_at"),
        Index(None, "acquisition", "tile"),
        Index(None, "snapshot_id"),
    )


class RasterRow(Base):
    """What files hold at their full resolution: the same for many of a tile's, so kept once."""

    __tablename__ = "rasters"
    id: Mapped[Key]
    width: Mapped[int]
    height: Mapped[int]
    x: Mapped[float]
    """Upper left corner, metres of the scene's EPSG code; as are the next three."""
    y: Mapped[float]
    pixel_width: Mapped[float]
    pixel_height: Mapped[float]
    """Positive."""
    dtype: Mapped[Name]
    nodata: Mapped[Name]
    """A whole number; empty for none, since NULL would be unequal to itself."""
    __table_args__ = (
        UniqueConstraint(
            *("y", "x", "width", "height", "pixel_width", "pixel_height", "dtype", "nodata"),
            # By the convention it would be longer than PostgreSQL's names may be.
            name="uq_rasters_all",
        ),
    )


class AssetRow(Base):
    """One file of an indexed scene, as it was when its header was read."""

    __tablename__ = "assets"
    scene_id: Mapped[int] = mapped_column(
        ForeignKey("scenes.id", ondelete="CASCADE"), primary_key=True
    )
    band: Mapped[Name] = mapped_column(primary_key=True)
    href: Mapped[str]
    """The rest after ``scenes.href_prefix``."""
    size: Mapped[int | None] = mapped_column(BigInteger)
    etag: Mapped[str | None] = mapped_column(ETag)
    last_modified: Mapped[Instant | None]
    checksum: Mapped[Digest | None]
    """STAC ``file:checksum``: a multihash."""
    header_sha256: Mapped[Digest]
    header_length: Mapped[int]
    raster_id: Mapped[int | None] = mapped_column(ForeignKey("rasters.id"))
    """None of files that were recorded before there was this column."""
    # The key is the row's only order: SQLite then keeps one tree instead of two.
    __table_args__ = ({"sqlite_with_rowid": False},)


class SceneRevisionRow(SceneState, Base):
    """An earlier state of a scene, still readable at its own snapshot."""

    __tablename__ = "scene_revisions"
    id: Mapped[Key]
    scene_id: Mapped[int] = mapped_column(ForeignKey("scenes.id", ondelete="CASCADE"))
    assets: Mapped[list[Any]]
    """Objects of band, href, size, etag, last_modified (ISO 8601), checksum, header_sha256,
    header_length, raster (null, or the fields of ``recorded.Raster``)."""
    replaced_at: Mapped[Instant]
    replaced_by: Mapped[int] = mapped_column(
        BigInteger, default=_microseconds("replaced_at"), server_default="0"
    )
    """``sequence`` of the state that followed."""
    __table_args__ = (
        UniqueConstraint("scene_id", "revision"),
        Index(None, "snapshot_id"),
        Index(None, "sequence", "recorded_at"),
    )


class ItemFailureRow(Base):
    """An item that could not become a scene: no geometry, no tile, no bands.

    Apart from ``scenes``, whose columns can so be NOT NULL and need no care in a search.
    """

    __tablename__ = "item_failures"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id"), primary_key=True)
    item_id: Mapped[Name] = mapped_column(primary_key=True)
    item_sha256: Mapped[Digest | None]
    reason: Mapped[str]
    attempts: Mapped[Small]
    failed_at: Mapped[Instant]
    next_attempt_at: Mapped[Instant]
    crawl_id: Mapped[int | None] = mapped_column(ForeignKey("crawls.id"))


class SnapshotRow(Base):
    """A commit this catalog has recorded, whole: its scenes came in the same transaction."""

    __tablename__ = "snapshots"
    id: Mapped[str] = mapped_column(primary_key=True)
    """Icechunk's own id."""
    parent_id: Mapped[str | None]
    branch_id: Mapped[int] = mapped_column(ForeignKey("branches.id"), index=True)
    written_at: Mapped[Instant]
    crawl_id: Mapped[int | None] = mapped_column(ForeignKey("crawls.id"))
    scenes: Mapped[int]
    """How many scenes the commit wrote."""


class WatchRow(Base):
    """A saved crawl query; its last crawl is the newest of ``crawls`` that names it."""

    __tablename__ = "watches"
    id: Mapped[Key]
    name: Mapped[str] = mapped_column(unique=True)
    query: Mapped[dict[str, Any]]
    watermark: Mapped[Instant | None]
    """Newest ``updated`` of the source that a finished crawl has seen."""
    created_at: Mapped[Instant]


class CrawlRow(Base):
    """One run of the crawler."""

    __tablename__ = "crawls"
    id: Mapped[Key]
    repository_id: Mapped[int | None] = mapped_column(ForeignKey("repositories.id"))
    watch_id: Mapped[int | None] = mapped_column(
        ForeignKey("watches.id", ondelete="SET NULL"), index=True
    )
    query: Mapped[dict[str, Any]]
    started_at: Mapped[Instant]
    finished_at: Mapped[Instant | None]
    outcome: Mapped[str | None]
    """None while it runs, and for ever if it was killed; else ``done``, ``interrupted`` …"""
    watermark: Mapped[Instant | None]
    found: Mapped[int] = mapped_column(default=0)
    new: Mapped[int] = mapped_column(default=0)
    changed: Mapped[int] = mapped_column(default=0)
    unchanged: Mapped[int] = mapped_column(default=0)
    indexed: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    withdrawn: Mapped[int] = mapped_column(default=0)
    commits: Mapped[int] = mapped_column(default=0)
    requests: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)


class LeaseRow(Base):
    """The right to write to a repository, until it expires."""

    __tablename__ = "leases"
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"), primary_key=True)
    holder: Mapped[str]
    acquired_at: Mapped[Instant]
    expires_at: Mapped[Instant]


def _table(row: type[Base]) -> Table:
    table = row.__table__
    assert isinstance(table, Table)
    return table


# Core's view of the same tables, for ingest and search.
SOURCES = _table(SourceRow)
COLLECTIONS = _table(CollectionRow)
REPOSITORIES = _table(RepositoryRow)
BRANCHES = _table(BranchRow)
TILES = _table(TileRow)
SCENES = _table(SceneRow)
ASSETS = _table(AssetRow)
RASTERS = _table(RasterRow)
SCENE_REVISIONS = _table(SceneRevisionRow)
ITEM_FAILURES = _table(ItemFailureRow)
SNAPSHOTS = _table(SnapshotRow)
WATCHES = _table(WatchRow)
CRAWLS = _table(CrawlRow)
LEASES = _table(LeaseRow)
STATE_COLUMNS: tuple[str, ...] = tuple(
    column.name
    for column in SCENES.columns
    if column.name in SCENE_REVISIONS.columns and column.name != "id"
)
"""Columns of ``SceneState``, which scenes and their revisions share."""
