"""Values of the SQL catalog: what a crawl hands over to be recorded, and what readers get back.

Instants are aware; those that come back are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catalog.scene import Scene

Instant = datetime
"""``datetime`` where a field has its name."""

STATUSES = ("pending", "indexed", "failed", "withdrawn")
"""``pending`` and ``failed`` were never indexed; ``indexed`` is readable; ``withdrawn`` is gone
from the source and reads as nodata at the head, until it comes back and is indexed again."""


DESCRIBED = (
    "tile", "epsg", "datetime", "platform", "cloud_cover", "baseline", "acquisition",
    "footprint", "created", "updated", "boa_offset", "boa_evidence", "item_sha256",
)  # fmt: skip
"""Fields of ``Scene`` that columns have the names of."""


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """A scene as the catalog has it, with where it lives."""

    pk: int
    """The catalog's own number, which breaks ties; not for keeping."""
    id: str
    collection: str
    tile: str
    epsg: int
    datetime: Instant
    platform: str | None
    cloud_cover: float | None
    baseline: str | None
    acquisition: str | None
    """Equal, on one tile, for scenes that are the same acquisition."""
    status: str
    bbox: tuple[float, float, float, float]
    """(minx, miny, maxx, maxy), degrees; maxx may exceed 180."""
    footprint: bytes
    """WKB, EPSG:4326, longitude latitude."""
    created: Instant | None
    updated: Instant | None
    boa_offset: int
    boa_evidence: str
    warnings: tuple[str, ...]
    item_sha256: str
    repository: str
    """Where it was last seen."""
    branch: str | None
    """This and the next four are None until the scene is indexed."""
    root: str | None
    time_index: int | None
    snapshot_id: str | None
    refs_sha256: str | None
    revision: int
    recorded_at: Instant
    attempts: int
    last_error: str | None
    next_attempt_at: Instant | None
    missing: tuple[str, ...] = ()
    """Bands of its item that are not indexed, since their files cannot be read; ``warnings`` say
    why."""
    bands: tuple[str, ...] = ()
    """That are indexed, in the order of ``bands.BANDS``; none before the scene is, and of an
    earlier state whose files are not recorded."""


@dataclass(frozen=True, slots=True)
class Raster:
    """The image of a file at its full resolution: where its pixels lie, and what they are."""

    width: int
    height: int
    transform: tuple[float, float, float, float, float, float]
    """Affine order (a, b, c, d, e, f), metres of the scene's CRS; north up."""
    dtype: str
    """NumPy name: ``uint16``."""
    nodata: int | None


@dataclass(frozen=True, slots=True)
class AssetRecord:
    """One file of an indexed scene, as it was when its header was read."""

    band: str
    href: str
    """As in the item, unsigned."""
    size: int | None
    """Bytes."""
    etag: str | None
    """As the server sent it, quotes included."""
    last_modified: datetime | None
    """Aware."""
    checksum: str | None
    """STAC ``file:checksum``: a multihash as lower-case hex."""
    header_sha256: str
    """Hex SHA-256 of the first ``header_length`` bytes of the file."""
    header_length: int
    raster: Raster | None = None
    """As its header says; None where that could not be read again, or was before it was recorded.
    """


@dataclass(frozen=True, slots=True)
class IndexedScene:
    """A scene and its place on the branch of a commit."""

    scene: Scene
    root: str
    """Cube on the branch: ``""`` or ``variant-xxxx``."""
    time_index: int
    refs_sha256: str
    """Hex SHA-256 of the scene's canonical references."""
    files: tuple[AssetRecord, ...]
    warnings: tuple[str, ...] = ()
    """What reading its files added to ``scene.warnings``."""
    missing: tuple[str, ...] = ()
    """Bands that its item has and that could not be indexed."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit on the branch of a tile."""

    branch: str
    collection: str
    tile: str
    epsg: int
    snapshot_id: str
    parent_id: str | None
    """Head of the branch before; None leaves the recorded head unchecked."""
    written_at: datetime
    """Aware."""
    origin: tuple[float, float] | None = None
    """Upper left corner of the tile's grid (x, y), metres of ``epsg``."""


@dataclass(frozen=True, slots=True)
class PlacedScene:
    """Where a scene stands on a branch, and what a reader of the branch must know of it."""

    id: str
    time: int
    """Microseconds since 1970, UTC."""
    boa_offset: int
    root: str
    """Cube on the branch: ``""`` or ``variant-xxxx``."""
    time_index: int
    bands: frozenset[str] | None
    """Of which there is a file; None where that is not recorded: all of its cube."""


@dataclass(frozen=True, slots=True)
class KnownRepository:
    """A repository as the catalog last saw it."""

    key: int
    """The catalog's own number; not for keeping."""
    uid: str
    location: str


@dataclass(frozen=True, slots=True)
class KnownScene:
    """What the catalog knows of an item, for a crawl to compare with what it is offered."""

    item_sha256: str | None
    """Of the item that is indexed; of the last one seen where none ever was."""
    status: str
    """``failed`` also for an item that could not become a scene."""
    wanted_sha256: str | None
    """Of the item whose indexing is outstanding; None where the newest seen is indexed."""
    branch: str | None
    root: str | None
    time_index: int | None
    snapshot_id: str | None
    refs_sha256: str | None
    revision: int
    attempts: int
    """Failures in a row with the wanted item."""
    next_attempt_at: datetime | None
    last_error: str | None
    bands: frozenset[str] = frozenset()
    """That are indexed."""
    missing: frozenset[str] = frozenset()
    """That could not be."""
    unreadable: bool = False
    """The newest item is no scene: ``attempts`` are to make it one."""


@dataclass(frozen=True, slots=True)
class IndexedState:
    """What is indexed of a scene, to judge whether a changed item means changed pixels."""

    datetime: Instant
    boa_offset: int
    warnings: tuple[str, ...]
    branch: str
    root: str
    time_index: int
    refs_sha256: str
    files: Mapping[str, AssetRecord]
    """By band."""
    missing: tuple[str, ...]
    described: Mapping[str, Any]
    """The fields ``DESCRIBED`` of the scene that was indexed."""


@dataclass(frozen=True, slots=True)
class BranchHead:
    """The last recorded commit of a branch."""

    name: str
    collection: str
    tile: str
    epsg: int
    origin: tuple[float, float] | None
    snapshot_id: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class BranchSummary:
    """One branch in numbers."""

    branch: str
    head: str
    scenes: int
    """Indexed now."""
    first: datetime | None
    """Of its oldest scene, UTC."""
    last: datetime | None


@dataclass(frozen=True, slots=True)
class CrawlCounts:
    """What a crawl did: the JSON of ``cogcat crawl``."""

    found: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    indexed: int = 0
    failed: int = 0
    withdrawn: int = 0
    commits: int = 0
    requests: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CrawlRecord:
    """One run of the crawler."""

    id: int
    query: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    """None while it runs, or if it was killed."""
    counts: CrawlCounts


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that is not indexed as it should be, and why."""

    collection: str
    id: str
    tile: str | None
    """None where the item could not become a scene."""
    reason: str
    attempts: int
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class IncompleteScene:
    """An indexed scene that lacks bands of its item."""

    id: str
    collection: str
    tile: str
    bands: tuple[str, ...]
    """That are not indexed."""
    reasons: tuple[str, ...]
    """Why not, one of each."""


@dataclass(frozen=True, slots=True)
class Status:
    """The catalog in numbers."""

    scenes: tuple[tuple[str, str, str, int], ...]
    """(collection, tile, status, scenes), sorted."""
    outdated: int
    """Indexed scenes whose item has changed since."""
    incomplete: int
    """Indexed scenes that lack a band of their item, whose file cannot be read."""
    incomplete_scenes: tuple[IncompleteScene, ...]
    """The first of them, by collection, tile and time; at most as many as asked for."""
    unreadable: int
    """Items that could not become a scene; not among ``scenes``."""
    failures: tuple[Failure, ...]
    """Soonest to be tried again first; at most as many as asked for."""
    due_at: tuple[datetime | None, ...]
    """When each of all of them is tried again; None is at the next crawl."""
    crawls: tuple[CrawlRecord, ...]
    """Newest first."""

    @property
    def outstanding(self) -> int:
        """All that is not indexed as it should be."""
        return len(self.due_at)

    def parked(self, now: datetime) -> int:
        """How many of them no crawl tries again yet."""
        return sum(due is not None and due > now for due in self.due_at)

    def total(self, by: str) -> dict[str, int]:
        """Scenes by ``collection``, ``tile`` or ``status``."""
        place = ("collection", "tile", "status").index(by)
        sums: dict[str, int] = {}
        for *names, count in self.scenes:
            name = str(names[place])
            sums[name] = sums.get(name, 0) + count
        return sums


@dataclass(frozen=True, slots=True)
class DescribedScene:
    """A scene with all that its STAC item says of it."""

    record: SceneRecord
    files: Mapping[str, AssetRecord]
    """By band, in the order of ``bands.BANDS``; none where the scene was never indexed."""
    stac_url: str | None
    """API its collection was last crawled from."""
    superseded: bool
    """``record`` is an earlier state, or the same acquisition was processed again since."""


@dataclass(frozen=True, slots=True)
class CollectionExtent:
    """A collection, and where and when its scenes lie."""

    name: str
    stac_url: str | None
    boxes: tuple[tuple[float, float, float, float], ...]
    """Of its tiles: (minx, miny, maxx, maxy), degrees; maxx may exceed 180."""
    first: Instant | None
    """Of its oldest scene."""
    last: Instant | None
