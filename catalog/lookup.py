"""The read path: ``Catalog``, questions in, scenes and xarray out. Never writes.

SQL says which snapshot to read, so a reader sees what a crawl has recorded and
nothing that is still being written.
"""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from inspect import signature
from typing import Any

import icechunk
import numpy as np
import xarray as xr

from catalog import (
    assets,
    database,
    heads,
    identity,
    item_rows,
    moments,
    opening,
    opening_area,
    placed,
    registry,
)
from catalog.answers import Asker
from catalog.changes import Changes, changes
from catalog.errors import CatalogError, ConfigError, NotFoundError, UsageError
from catalog.filter_tree import Filter
from catalog.json_values import plain
from catalog.moments import AsOf
from catalog.overview import overview
from catalog.parse import (
    parse_collection,
    parse_datetime,
    parse_item_id,
    parse_several,
    parse_tile,
)
from catalog.query import Query
from catalog.recorded import AssetRecord, SceneRecord
from catalog.repository import Repository
from catalog.search_result import Scenes
from catalog.settings import OVERDUE, Settings, load_settings
from catalog.stac_items import ItemMaker, collection_document
from catalog.storage import absolute, measure
from catalog.stored_scene import StoredScene
from catalog.tile_boxes import TileBoxes

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


@lru_cache(8)
def _reopened(settings: bytes) -> Catalog:
    """One for all that a process is sent: scenes arrive there one by one."""
    return Catalog(pickle.loads(settings))


_catalogs: weakref.WeakSet[Catalog] = weakref.WeakSet()
_abandoned: list[Any] = []


def _after_fork() -> None:
    """In a child: the parent's connections are the parent's, and must not even be closed."""
    for opened in list(_catalogs):
        _abandoned.extend((opened._engine.pool, opened._repository, opened._store))
        opened._engine.dispose(close=False)
        opened._set_up()


os.register_at_fork(after_in_child=_after_fork)


class Catalog:
    """A SQL catalog and its Icechunk repository, for reading.

    Safe to share between threads; pickles, and goes on in a forked child, with connections of
    its own there: but pixels only if the parent had not opened any (``StoreError``), since
    Icechunk's threads do not come along.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engine = database.open_engine(settings.database, cache=database.READER_CACHE)
        try:
            database.check_revision(self._engine)
            with database.read_transaction(self._engine) as connection:
                self._known = registry.find_repository(
                    connection, absolute(settings.repository), self._repository_id
                )
        except CatalogError:
            self._engine.dispose()
            raise
        self._set_up()
        _catalogs.add(self)

    def _set_up(self) -> None:
        self._tiles = TileBoxes()
        self._lock = threading.Lock()
        self._repository: Repository | None = None
        self._checked: Repository | None = None
        # No repository has 0: a catalog without one holds nothing.
        self._repository_key = self._known.key if self._known else 0
        self._uid = self._known.uid if self._known else ""
        self._store = lru_cache(STORES)(self._open_store)

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere it is opened anew: connections do not travel.
        return _reopened, (pickle.dumps(self.settings),)

    def __repr__(self) -> str:
        where = database.shown(self.settings.database)
        return f"<Catalog {where}, {self.settings.repository}>"

    def close(self) -> None:
        """Gives the connections back: to the database, to the repository, to the files' servers.

        What was opened before goes on to be read, and keeps those that it needs until it is gone;
        a catalog that is used again opens others.
        """
        with self._lock:
            self._repository = None
        self._store.cache_clear()
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
        opened = self._opened()
        self._check_identity(opened)
        return opened

    def _opened(self) -> Repository:
        with self._lock:
            if self._repository is None:
                self._repository = self._open_repository()
            return self._repository

    def _check_identity(self, opened: Repository) -> None:
        if self._known is None or opened is self._checked:
            return
        if not identity.is_still(opened, self._known):
            with self._lock:
                self._repository = None
            raise ConfigError(identity.other_id(opened, self._known))
        self._checked = opened

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
        updated_since: Any = None,
        filter: str | Mapping[str, Any] | bool | Filter | None = None,
        per_tile: str | None = None,
        as_of: datetime | str | None = None,
        sort: str | Iterable[str | Mapping[str, str]] | None = None,
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
                updated_since=updated_since,
                filter=filter,
                per_tile=per_tile,
                as_of=as_of,
                sort=sort,
                limit=limit,
            ),
        )

    def scene(self, id: str, *, collection: str | None = None) -> StoredScene:
        """One scene by its item id, whatever its status.

        Raises:
            NotFoundError: no scene is called so.
            UsageError: several collections have it; or not an id.
        """
        found = list(self.search(ids=parse_item_id(id), collection=collection, status="any"))
        if not found:
            raise NotFoundError(f"no scene {id!r} in {database.shown(self.settings.database)}")
        if len(found) > 1:
            names = ", ".join(sorted(scene.record.collection for scene in found))
            raise UsageError(f"scene {id!r} is in collections {names}: say which")
        return found[0]

    def changes(self, since: datetime | str | None = None, limit: int | None = None) -> Changes:
        """What was indexed, changed or withdrawn, in the order in which it was recorded.

        ``changes(since=feed.token)`` goes on where ``feed`` ended: a change is met once, whatever
        is recorded meanwhile.

        Args:
            since: the token of a feed or of one of its changes, or a time (inclusive; naive is
                UTC) by the catalog's own ``recorded_at``; None for everything.
            limit: at most so many.

        Raises:
            UsageError: ``since`` is no time and no token, or one of another repository.
        """
        with database.read_statements(self._engine) as connection:
            return changes(connection, self._repository_key, since, limit, uid=self._uid)

    def cube(
        self,
        tile: str,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        datetime: Any = None,
        collection: str | Iterable[str] | None = None,
        as_of: AsOf = None,
        mask: Any = None,
        missing: str | None = None,
        reflectance: bool = False,
        chunks: Mapping[str, Any] | str | int | None = None,
    ) -> xr.Dataset:
        """One tile over time: a lazy dataset of (time, y, x) variables, sorted by time.

        Scenes whose files are laid out differently (variant cubes), and those of several
        collections, stand in the same arrays.

        Args:
            tile: MGRS, such as ``10TFR``.
            bands: ``red`` or ``B04`` …; None for all at the resolution.
            resolution: pixel size in metres; None for the finest at which all ``bands`` have
                an array.
            datetime: as in ``search``; None for all.
            collection: one or several; None for all that have the tile. Of several, the same
                acquisition may stand in the cube more than once: ``collection`` tells.
            as_of: a time (aware, or ISO text): what the catalog had recorded then; or a snapshot
                id, for branches that do not have it the time of its commit; or snapshot ids by
                branch. None for now.
            mask: classes of scl to leave out, as in ``load``.
            missing: scenes that lack one of ``bands`` (its file could not be read, or was not
                crawled), or scl where there is a ``mask``: ``nodata`` takes all their pixels of
                that band, or all, for nodata; ``drop`` leaves these scenes out; ``error`` refuses
                them. None is ``nodata`` with a ``missing.MissingBandWarning`` for a band, and
                ``error`` for a mask. The coordinate ``missing_bands`` says which, if there are any.
            reflectance: float32 ``(DN + boa_offset) * 0.0001`` per time step with NaN for nodata
                in reflectance bands; else raw digital numbers as stored.
            chunks: sizes by dimension, ``"auto"`` …, for dask arrays; None for arrays that are lazy
                without dask.

        Returns:
            Coordinates ``time`` (UTC, to the microsecond, as recorded), ``scene`` (item id),
            ``boa_offset``, ``y``, ``x`` (pixel centres, metres) and ``spatial_ref``,
            ``collection`` where several were joined, ``missing_bands`` where scenes lack some;
            ``attrs`` cite repository, branches and snapshots.

        Raises:
            NotFoundError: no such tile, band, resolution, class or snapshot, or no scene in that
                time.
            UsageError: the collections that have the tile have other grids or types: says why.
            StoreError: the repository does not have the scenes where, when and with the offsets
                that the catalog records, or is damaged.
        """
        name = parse_tile(tile)
        wanted = parse_several(collection, parse_collection)
        with database.read_transaction(self._engine) as connection:
            now = moments.tile_heads(connection, self._repository_key, name, wanted)
            if as_of is not None:
                then = moments.branches_then(
                    connection, self._repository_key, now, as_of, f"tile {name}"
                )
                states = placed.placed_then(connection, self._repository_key, then)
        if as_of is None:
            held = [opening.part_of(branch, *there) for branch, there in now.items()]
        else:
            held = list(self._parts_then(then, states).values())
        first, last = (None, None) if datetime is None else parse_datetime(datetime)
        parts = []
        for part in held:
            inside = np.ones(len(part.ids), np.bool_)
            if first is not None:
                inside &= part.times >= opening.microseconds(first)
            if last is not None:
                inside &= part.times <= opening.microseconds(last)
            if inside.any():
                parts.append(opening.some_of(part, np.flatnonzero(inside)))
        if not parts:
            there = sum(len(part.ids) for part in held)
            when = f" in {datetime!r}" if datetime is not None else ""
            raise NotFoundError(f"tile {name}: no scene{when}; there are {there}")
        dataset = opening.open_tile(
            parts,
            self._store,
            tile=name,
            bands=bands,
            resolution=resolution,
            reflectance=reflectance,
            mask=mask,
            missing=missing,
        )
        return self._cited(
            opening.chunked(dataset, chunks), {part.branch: part.snapshot for part in parts}
        )

    def load(
        self,
        *,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        crs: Any = None,
        resampling: str | Mapping[str, str] = "nearest",
        groupby: str | None = "solar_day",
        mask: Any = None,
        missing: str | None = None,
        reflectance: bool = False,
        chunks: Mapping[str, Any] | str | int | None = None,
        like: Any = None,
        geobox: Any = None,
        as_of: AsOf = None,
        **question: Any,
    ) -> xr.Dataset:
        """Any area over time on one grid: a lazy dataset of (time, y, x) variables.

        Tiles and UTM zones are brought to one grid by GDAL's warp, block by block, from the
        overview that fits. Of scenes that overlap within a time step the first with a valid pixel
        gives it, by time, then id, as odc-stac has it.

        Args:
            bands: ``red`` or ``B04`` …; None for all that have an array at the resolution.
            resolution: pixel size in the unit of ``crs``; None for the finest, in metres, at which
                all ``bands`` have an array.
            crs: a code, WKT, or a CRS of pyproj, rasterio or odc-geo; None for the UTM zone that
                most of the scenes are in. Pixel edges are multiples of the resolution.
            resampling: one of ``grid.RESAMPLING``, or by band with ``*`` for the others. scl is
                always nearest unless it is named.
            groupby: what is one time step: ``solar_day``, ``time``, or None for each scene.
            mask: classes of scl to leave out before mosaicking: ``clouds`` (8, 9, 10),
                ``clouds_and_shadows`` (and 3), names or numbers of ``masks.SCL_CLASSES``, or
                several. Such pixels are nodata or NaN, unless another scene of the step has them.
            missing: as in ``cube``; what one scene of a step lacks, another may have.
            reflectance: float32 ``(DN + boa_offset) * 0.0001`` with NaN for nodata in reflectance
                bands, each scene by its own offset; else raw digital numbers.
            chunks: sizes by dimension, ``"auto"`` …, for dask arrays; None for arrays that are lazy
                without dask.
            like: an xarray object or ``GeoBox`` whose grid to fill; in place of ``crs`` and
                ``resolution``.
            geobox: the same as ``like``.
            as_of: as in ``cube``: scenes and pixels as recorded then. What is asked of scenes
                (cloud cover …) is asked of their records of today.
            question: what ``search`` takes; ``bbox``, ``intersects`` or else the scenes' tiles are
                the area.

        Returns:
            Coordinates ``time`` (of the first scene of the step, UTC), ``scene`` (item ids, a space
            between), ``boa_offset`` (where each step has but one), ``y``, ``x`` (pixel centres) and
            ``spatial_ref``; ``attrs`` cite repository, branches and snapshots.

        Raises:
            NotFoundError: no scene answers; no such band, class, resampling or grouping.
            UsageError: no such crs, or a resolution that does not fit it.
            ConfigError: the extra ``load`` (or dask, for ``chunks``) is not installed.
        """
        if like is not None and geobox is not None:
            raise UsageError("like= and geobox= are the same: give one")
        if unknown := set(question) - set(signature(Query.parse).parameters):
            raise UsageError(f"load takes no {', '.join(sorted(unknown))}: `search` has the others")
        found = self.search(**question)
        records, snapshots = self._answer(found.query, as_of)
        dataset = opening_area.open_area(
            self._some(records, found.query),
            snapshots,
            self._store,
            area=found.query.area,
            bands=bands,
            resolution=resolution,
            crs=crs,
            like=like if geobox is None else geobox,
            resampling=resampling,
            groupby=groupby,
            mask=mask,
            missing=missing,
            reflectance=reflectance,
            chunks=chunks,
        )
        branches = {record.branch for record in records}
        return self._cited(dataset, {b: at for b, at in snapshots.items() if b in branches})

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

    def collections(self) -> list[dict[str, Any]]:
        """The collections that have scenes here as STAC 1.1 documents, by id, with their extents.
        One statement."""
        with database.read_transaction(self._engine) as connection:
            held = item_rows.collection_extents(connection, self._repository_key)
        return [collection_document(extent) for extent in held]

    def _answer(self, query: Query, as_of: AsOf) -> tuple[list[SceneRecord], dict[str, str]]:
        """The indexed scenes that answer and the snapshot to read each of their branches at: what
        the catalog records at one moment; at ``query.as_of`` unless ``as_of`` is given."""
        given = as_of is not None
        if given and query.as_of is None:
            # Scenes that were withdrawn since were there.
            query = replace(query, status=None)
        with database.read_transaction(self._engine) as connection:
            asker = Asker(connection, self._repository_key, self._tiles)
            records = [
                record
                for record in asker.records(query)
                if record.branch is not None and (given or record.status == "indexed")
            ]
            if as_of is None and query.as_of is not None:
                as_of = asker.moment(query)
            branches = {record.branch for record in records if record.branch is not None}
            if as_of is None or not records:
                known = heads.branch_heads(connection, self._repository_key)
                return records, {branch: known[branch].snapshot_id for branch in branches}
            then = moments.branches_then(
                connection, self._repository_key, sorted(branches), as_of, "this search"
            )
            states = placed.placed_then(connection, self._repository_key, then)
        parts = self._parts_then(then, states)
        snapshots = {branch: part.snapshot for branch, part in parts.items()}
        return moments.as_recorded(records, parts), snapshots

    def _parts_then(
        self, then: Mapping[str, placed.Then], states: Mapping[str, Any]
    ) -> dict[str, opening.Part]:
        """By branch, as ``placed.placed_then`` has their scenes and as the repository does."""
        return {
            branch: opening.part_then(
                branch, at.snapshot, self._store(at.snapshot), *states[branch]
            )
            for branch, at in then.items()
        }

    def _some(self, records: Sequence[SceneRecord], query: Query) -> Sequence[SceneRecord]:
        """The records, if there are any.

        Raises:
            NotFoundError: there are none; says what the catalog holds.
        """
        if records:
            return records
        with database.read_transaction(self._engine) as connection:
            known = moments.known_tiles(connection, self._repository_key)
        raise NotFoundError(f"no indexed scene answers {query}; there are tiles {known}")

    def _cited(self, dataset: xr.Dataset, snapshots: Mapping[str, str]) -> xr.Dataset:
        return opening.cite(dataset, self.settings.repository, snapshots)

    def _repository_id(self) -> str | None:
        try:
            opened = self._open_repository()
        except ConfigError:
            return None
        # Of a place that the database does not know: not what others have made of ``main`` since.
        first = opened.first_id()
        return first[1] if first else opened.id

    def _open_repository(self) -> Repository:
        settings = self.settings
        return Repository.open(settings.repository, settings.sources, settings.repository_options)

    def _store_at(self, snapshot_id: str) -> icechunk.IcechunkStore:
        # A method, and so picklable with its catalog, as the cache behind it is not.
        return self._store(snapshot_id)

    def _open_store(self, snapshot_id: str) -> icechunk.IcechunkStore:
        opened = self._opened()
        try:
            # A repository that has a snapshot which this catalog recorded is the one: its id, two
            # rounds to the storage away, is asked for only where it has none.
            return opened.store(snapshot_id)
        except NotFoundError:
            self._check_identity(opened)
            raise

    @contextmanager
    def _asking(self) -> Iterator[Asker]:
        with database.read_statements(self._engine) as connection:
            yield Asker(connection, self._repository_key, self._tiles)

    def _item_maker(self) -> ItemMaker:
        return ItemMaker(self.settings.sources, self.settings.repository_options)

    def _handle(self, record: SceneRecord) -> StoredScene:
        return self._handles([record])[0]

    def _handles(self, records: Sequence[SceneRecord]) -> list[StoredScene]:
        where = self.settings.repository
        return [StoredScene(record, self._assets, self._store_at, where) for record in records]

    def _assets(self, record: SceneRecord) -> Mapping[str, AssetRecord]:
        with database.read_transaction(self._engine) as connection:
            past = assets.past_assets(connection, [record])
            if files := past.get((record.pk, record.recorded_at)):
                return files
            return assets.read_assets(connection, [record.pk]).get(record.pk, {})
