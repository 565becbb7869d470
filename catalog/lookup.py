"""The read path: ``Catalog``, questions in, scenes and xarray out. Never writes.

SQL says which snapshot to read, so a reader sees what a crawl has recorded and
nothing that is still being written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import xarray as xr

from catalog import arrays, assets, database, heads, registry, selection
from catalog.arrays import Steps
from catalog.bands import band_names
from catalog.errors import CatalogError, ConfigError, NotFoundError, UsageError
from catalog.json_values import plain
from catalog.overview import OVERDUE, overview
from catalog.parse import parse_datetime, parse_tile
from catalog.query import Query
from catalog.recorded import AssetRecord, SceneRecord
from catalog.repository import Repository
from catalog.settings import Settings, load_settings
from catalog.storage import absolute, measure
from catalog.stored_scene import StoredScene

if TYPE_CHECKING:
    import pandas as pd

STORES = 64
"""Snapshots kept open: a store's metadata and manifests are cached with it."""


def connect(
    database: str | None = None,
    *,
    repository: str | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Catalog:
    """Open a catalog for reading.

    Args:
        database: SQLAlchemy URL; None takes ``COGCAT_DATABASE``, ``cogcat.toml`` or the default.
        repository: path or ``s3://bucket/prefix``; None likewise. Opened at the first array, or
            at once if the catalog has not seen it there.
        config: another ``cogcat.toml``.

    Raises:
        ConfigError: there is no catalog, it is at another revision, or the repository is
            none of its.
    """
    return Catalog(load_settings(database=database, repository=repository, config=config))


class Catalog:
    """A SQL catalog and its Icechunk repository, for reading; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engine = database.open_engine(settings.database)
        try:
            database.check_revision(self._engine)
            with database.read_transaction(self._engine) as connection:
                self._known = registry.find_repository(
                    connection, absolute(settings.repository), self._repository_id
                )
        except CatalogError:
            self._engine.dispose()
            raise
        self._lock = threading.Lock()
        self._repository: Repository | None = None
        # No repository has 0: a catalog without one holds nothing.
        self._repository_key = self._known.key if self._known else 0
        self._store = lru_cache(STORES)(self._open_store)

    def __repr__(self) -> str:
        where = database.shown(self.settings.database)
        return f"<Catalog {where}, {self.settings.repository}>"

    def close(self) -> None:
        """Gives the database connections back."""
        self._engine.dispose()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def repository(self) -> Repository:
        """The Icechunk repository, opened when it is first asked for.

        Raises:
            ConfigError: there is none, its storage does not answer, or it is not the one whose
                scenes this catalog reads.
        """
        with self._lock:
            if self._repository is None:
                opened = self._open_repository()
                if self._known and opened.id != self._known.uid:
                    raise ConfigError(
                        f"repository {opened.location} has the id {opened.id}, the one that the "
                        f"catalog knows there has {self._known.uid}: run `cogcat init` if it was "
                        "replaced"
                    )
                self._repository = opened
            return self._repository

    def search(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        collection: str | Iterable[str] | None = None,
        tile: str | Iterable[str] | None = None,
        bbox: Sequence[float] | str | None = None,
        intersects: Any = None,
        datetime: Any = None,
        max_cloud_cover: float | None = None,
        cloud_cover: Sequence[float | None] | None = None,
        platform: str | Iterable[str] | None = None,
        baseline: str | Iterable[str] | None = None,
        status: str | Iterable[str] | None = "indexed",
        newest: bool = False,
        sort: str | Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Scenes:
        """Scenes by place, time and cloud: lazy, asked when it is iterated or counted.

        The arguments are those of ``query.Query.parse``.

        Raises:
            UsageError: a value that means nothing; says what would do.
        """
        return Scenes(
            self,
            Query.parse(
                ids=ids,
                collection=collection,
                tile=tile,
                bbox=bbox,
                intersects=intersects,
                datetime=datetime,
                max_cloud_cover=max_cloud_cover,
                cloud_cover=cloud_cover,
                platform=platform,
                baseline=baseline,
                status=status,
                newest=newest,
                sort=sort,
                limit=limit,
            ),
        )

    def scene(self, id: str, *, collection: str | None = None) -> StoredScene:
        """One scene by its item id, whatever its status.

        Raises:
            NotFoundError: no scene is called so.
            UsageError: several collections have it.
        """
        found = list(self.search(ids=id, collection=collection, status="any"))
        if not found:
            raise NotFoundError(f"no scene {id!r} in {database.shown(self.settings.database)}")
        if len(found) > 1:
            names = ", ".join(sorted(scene.record.collection for scene in found))
            raise UsageError(f"scene {id!r} is in collections {names}: say which")
        return found[0]

    def cube(
        self,
        tile: str,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        datetime: Any = None,
        collection: str | None = None,
        as_of: datetime | str | None = None,
        reflectance: bool = False,
    ) -> xr.Dataset:
        """One tile over time: a lazy dataset of (time, y, x) variables, sorted by time.

        Scenes whose files are laid out differently (variant cubes) stand in the same arrays.

        Args:
            tile: MGRS, such as ``10TFR``.
            bands: ``red`` or ``B04`` …; None for all at the resolution.
            resolution: pixel size in metres; None for the finest at which all ``bands`` have
                an array.
            datetime: as in ``search``; None for all.
            collection: needed where several have the tile.
            as_of: a snapshot id, or a time (aware, or ISO text): what the catalog had recorded
                then. None for now.
            reflectance: float32 ``(DN + boa_offset) * 0.0001`` per time step with NaN for nodata
                in reflectance bands; else raw digital numbers as stored.

        Returns:
            Coordinates ``time`` (UTC), ``scene`` (item id), ``boa_offset``, ``y``, ``x`` (pixel
            centres, metres) and ``spatial_ref``; ``attrs`` cite repository, branch and snapshot.

        Raises:
            NotFoundError: no such tile, band, resolution or snapshot, or no scene in that time.
            UsageError: several collections have the tile.
        """
        name = parse_tile(tile)
        branch, snapshot = self._head(name, collection, as_of)
        store = self._store(snapshot)
        cubes = arrays.read_cubes(store)
        wanted = band_names(bands) if bands is not None else None
        size, chosen = arrays.choose(cubes, wanted, resolution, f"tile {name}")
        steps, times, ids, offsets = arrays.all_steps(store, cubes)
        order = np.lexsort((np.array(ids, dtype=str), times))
        if datetime is not None:
            first, last = parse_datetime(datetime)
            if first is not None:
                order = order[times[order] >= np.floor(first.timestamp())]
            if last is not None:
                order = order[times[order] <= last.timestamp()]
        if not order.size:
            raise NotFoundError(f"tile {name}: no scene in {datetime!r}; there are {len(times)}")
        dataset = arrays.open_steps(
            store,
            cubes,
            steps=Steps(
                tuple(steps.roots[i] for i in order), tuple(steps.indices[i] for i in order)
            ),
            times=times[order],
            ids=[ids[i] for i in order],
            offsets=offsets[order],
            resolution=size,
            bands=chosen,
            reflectance=reflectance,
        )
        dataset.attrs |= {
            "cogcat_repository": self.settings.repository,
            "cogcat_branch": branch,
            "cogcat_snapshot": snapshot,
        }
        return dataset

    def status(self, *, store: bool = False, overdue_after: timedelta = OVERDUE) -> dict[str, Any]:
        """What the catalog holds, as plain JSON values; times are ISO 8601, UTC.

        Keys are those of ``overview.overview``, and ``database``, ``repository``, ``store``.

        Args:
            store: measure the repository: ``store`` is then its ``bytes`` and ``objects``, else
                None. It lists every object, which takes a while in a large bucket.
            overdue_after: since a watch's last crawl that ended well.

        Raises:
            ConfigError: the storage does not answer (only with ``store``).
        """
        now = datetime.now(UTC)
        with database.read_transaction(self._engine) as connection:
            seen = overview(connection, self._repository_key, now=now, overdue_after=overdue_after)
        settings = self.settings
        size = measure(settings.repository, settings.repository_options) if store else None
        return {
            "database": database.shown(settings.database),
            "repository": settings.repository,
            **seen,
            "store": plain(size),
        }

    def _head(
        self, tile: str, collection: str | None, as_of: datetime | str | None
    ) -> tuple[str, str]:
        """Branch name and snapshot id to read a tile at."""
        with database.read_transaction(self._engine) as connection:
            found = heads.tile_branches(connection, self._repository_key, tile)
            if collection is not None:
                found = {
                    name: at for name, at in found.items() if name.startswith(f"{collection}/")
                }
            if not found:
                where = f" in collection {collection!r}" if collection else ""
                tiles = heads.tile_names(connection, self._repository_key)
                known = ", ".join(tiles[:20]) + (" …" if len(tiles) > 20 else "")
                raise NotFoundError(f"no tile {tile}{where}; there are {known or 'none'}")
            if len(found) > 1:
                names = ", ".join(sorted(name.rpartition("/")[0] for name in found))
                raise UsageError(f"tile {tile} is in collections {names}: say which")
            ((branch, head),) = found.items()
            if as_of is None:
                return branch, head
            snapshots = heads.branch_snapshots(connection, self._repository_key, branch)
        if isinstance(as_of, str) and as_of in {snapshot for snapshot, _ in snapshots}:
            return branch, as_of
        moment = _moment(as_of, branch)
        before = [(at, snapshot) for snapshot, at in snapshots if at <= moment]
        if not before:
            raise NotFoundError(f"tile {tile}: nothing was recorded as of {as_of}")
        return branch, max(before)[1]

    def _repository_id(self) -> str | None:
        try:
            opened = self._open_repository()
        except ConfigError:
            return None
        return opened.id

    def _open_repository(self) -> Repository:
        settings = self.settings
        return Repository.open(settings.repository, settings.sources, settings.repository_options)

    def _open_store(self, snapshot_id: str) -> icechunk.IcechunkStore:
        return self.repository.store(snapshot_id)

    def _handle(self, record: SceneRecord) -> StoredScene:
        return StoredScene(record, self._assets, self._store, self.settings.repository)

    def _assets(self, record: SceneRecord) -> Mapping[str, AssetRecord]:
        with database.read_transaction(self._engine) as connection:
            rows = connection.execute(assets.assets_statement([record]))
            return assets.asset_records(rows).get(record.pk, {})


class Scenes:
    """The answer to a search: iterate, count, or take as a table. Asks anew each time."""

    def __init__(self, catalog: Catalog, question: Query) -> None:
        self._catalog, self.query = catalog, question

    def __iter__(self) -> Iterator[StoredScene]:
        return map(self._catalog._handle, self.records())

    def __repr__(self) -> str:
        return f"<Scenes {self.query}>"

    def records(self) -> list[SceneRecord]:
        """The scenes' records, in order. One statement."""
        with database.read_transaction(self._catalog._engine) as connection:
            asked = selection.statement(self.query, repository_id=self._catalog._repository_key)
            return list(selection.answer(self.query, connection.execute(asked)))

    def count(self) -> int:
        """How many scenes there are, without fetching them. One statement."""
        with database.read_transaction(self._catalog._engine) as connection:
            asked = selection.count_statement(
                self.query, repository_id=self._catalog._repository_key
            )
            return selection.counted(self.query, connection.execute(asked))

    def ids(self) -> list[str]:
        """Item ids, in order."""
        return [record.id for record in self.records()]

    def to_pandas(self) -> pd.DataFrame:
        """One row per scene in order, indexed by item id; times are aware, UTC.

        Columns are the fields of ``SceneRecord`` but the footprint.
        """
        import pandas as pd

        names = [
            name for name in SceneRecord.__dataclass_fields__ if name not in ("pk", "footprint")
        ]
        rows = [[getattr(record, name) for name in names] for record in self.records()]
        frame = pd.DataFrame(rows, columns=names).set_index("id")
        for name in ("datetime", "created", "updated", "recorded_at", "next_attempt_at"):
            frame[name] = pd.to_datetime(frame[name], utc=True)
        return frame


def _moment(as_of: datetime | str, branch: str) -> datetime:
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise UsageError(f"as_of={as_of!r} has no time zone")
        return as_of
    try:
        # The end of the day, month or second that was named.
        end = parse_datetime(as_of)[1]
    except UsageError:
        end = None
    if end is None:
        raise NotFoundError(f"branch {branch} has no recorded snapshot {as_of!r}")
    return end
