"""The answer to a search: iterate it, count it, take it as a table, as items, as arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from catalog import database, item_rows, opening, opening_area
from catalog.answers import sort_values
from catalog.errors import ConfigError, UsageError
from catalog.footprint import within_180
from catalog.parse import parse_limit
from catalog.query import Query
from catalog.recorded import SceneRecord
from catalog.stored_scene import StoredScene
from catalog.tokens import read_token, write_token

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import pystac

    from catalog.lookup import AsOf, Catalog

_KINDS = {"datetime": "time", "cloud_cover": "number?", "id": "text", "updated": "time?"}
"""Of what a question may be sorted by, in a token."""
ITEMS = 500
"""Scenes that become items at a time: two statements, some megabytes."""


_DTYPES = (
    dict.fromkeys(SceneRecord.__dataclass_fields__, "str")
    | dict.fromkeys(("epsg", "boa_offset", "revision", "attempts"), "int64")
    | {"time_index": "Int64", "cloud_cover": "float64"}
    | dict.fromkeys(("bbox", "warnings", "missing", "bands"), "object")
    | dict.fromkeys(
        ("datetime", "created", "updated", "recorded_at", "next_attempt_at"), "datetime64[us, UTC]"
    )
)
"""Of the columns of ``to_pandas``."""


@dataclass(frozen=True, slots=True)
class Page(Sequence[StoredScene]):
    """Some scenes of an answer, in order, and where it goes on."""

    records: tuple[SceneRecord, ...]
    token: str | None
    """For the next page; None on the last."""
    _catalog: Catalog = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._catalog._handles(self.records[index])
        return self._catalog._handle(self.records[index])


class Scenes:
    """The answer to a search: iterate, count, or take as a table. Asks anew each time."""

    def __init__(self, catalog: Catalog, question: Query) -> None:
        self._catalog, self.query = catalog, question

    def __iter__(self) -> Iterator[StoredScene]:
        return iter(self._catalog._handles(self.records()))

    def __repr__(self) -> str:
        return f"<Scenes {self.query}>"

    def records(self) -> list[SceneRecord]:
        """The scenes' records, in order. One statement; for a place two or three."""
        with self._catalog._asking() as asker:
            return asker.records(self.query)

    def count(self) -> int:
        """How many scenes there are, without fetching them. One statement; for a place two."""
        with self._catalog._asking() as asker:
            return asker.count(self.query)

    def page(self, token: str | None = None, limit: int = 100) -> Page:
        """The next scenes in order: a walk over any number of them, from any process.

        A walk meets every scene once, however many tie, whatever is added meanwhile. What it is
        sorted by may change under it: ``search(as_of=…)`` stands still.

        Args:
            token: of the page before; None for the first. Good for the same question only.
            limit: at most so many; the question's own limit holds for the whole walk.

        Raises:
            UsageError: the token is none, damaged, or of another question.
        """
        size = parse_limit(limit)
        assert size is not None
        query, left, after = self.query, self.query.limit, None
        uid, asked = self._catalog._uid, query.fingerprint
        if token is not None:
            kinds = (_KINDS[name] for name, _ in query.sort)
            fingerprint, left, *place = read_token(
                "page", uid, token, ("text", "whole?", *kinds, "whole")
            )
            if fingerprint != asked or left == 0:
                raise UsageError("this token is of the pages of another question")
            after = tuple(place)
        wanted = size if left is None else min(size, left)
        with self._catalog._asking() as asker:
            # One more than wanted tells whether there is another page.
            found = asker.records(replace(query, limit=wanted + 1), after=after)
        more = len(found) > wanted
        found = found[:wanted]
        left = None if left is None else left - wanted
        following = None
        if more and left != 0:
            following = write_token("page", uid, [asked, left, *sort_values(query, found[-1])])
        return Page(tuple(found), following, self._catalog)

    def pages(self, size: int = 100) -> Iterator[Page]:
        """Every page of ``size`` scenes; each is asked when it is its turn."""
        token: str | None = None
        while True:
            page = self.page(token, size)
            yield page
            token = page.token
            if token is None:
                return

    def ids(self) -> list[str]:
        """Item ids, in order."""
        return [record.id for record in self.records()]

    def to_xarray(
        self,
        bands: Sequence[str] | None = None,
        resolution: float | None = None,
        *,
        reflectance: bool = False,
        mask: Any = None,
        missing: str | None = None,
        chunks: Mapping[str, Any] | str | int | None = None,
        as_of: AsOf = None,
        **grid: Any,
    ) -> xr.Dataset:
        """The scenes as one lazy dataset of (time, y, x) variables.

        Of one tile: a step for each scene on the tile's own grid, as ``Catalog.cube`` gives them.
        Of several tiles, or where any of ``crs``, ``like``, ``geobox``, ``resampling`` or
        ``groupby`` is given: as ``Catalog.load``.

        Args:
            bands, resolution, reflectance, mask, missing, chunks, as_of, grid: as in these.

        Raises:
            NotFoundError: no scene answers; and as ``cube`` and ``load``.
        """
        catalog = self._catalog
        records, snapshots = catalog._answer(self.query, as_of)
        catalog._some(records, self.query)
        branches = {record.branch for record in records}
        snapshots = {branch: at for branch, at in snapshots.items() if branch in branches}
        tiles = {record.tile for record in records}
        if len(tiles) == 1 and not grid:
            dataset = opening.open_tile(
                opening.parts_of(records, snapshots),
                catalog._store,
                tile=tiles.pop(),
                bands=bands,
                resolution=resolution,
                reflectance=reflectance,
                mask=mask,
                missing=missing,
            )
            return catalog._cited(opening.chunked(dataset, chunks), snapshots)
        known = {"crs", "like", "geobox", "resampling", "groupby"}
        if set(grid) - known:
            unknown = ", ".join(sorted(set(grid) - known))
            raise UsageError(f"unknown argument {unknown}; known are {', '.join(sorted(known))}")
        if grid.get("like") is not None and grid.get("geobox") is not None:
            raise UsageError("like= and geobox= are the same: give one")
        dataset = opening_area.open_area(
            records,
            snapshots,
            catalog._store,
            area=self.query.area,
            bands=bands,
            resolution=resolution,
            crs=grid.get("crs"),
            like=grid.get("like") if grid.get("geobox") is None else grid["geobox"],
            resampling=grid.get("resampling", "nearest"),
            groupby=grid.get("groupby", "solar_day"),
            mask=mask,
            missing=missing,
            reflectance=reflectance,
            chunks=chunks,
        )
        return catalog._cited(dataset, snapshots)

    def to_pandas(self) -> pd.DataFrame:
        """One row per scene in order, indexed by item id; times are aware, UTC.

        Columns are the fields of ``SceneRecord`` but the footprint.
        """
        return self._frame(self.records())

    @staticmethod
    def _frame(records: Sequence[SceneRecord]) -> pd.DataFrame:
        import pandas as pd

        names = [
            name for name in SceneRecord.__dataclass_fields__ if name not in ("pk", "footprint")
        ]
        columns = {name: [getattr(record, name) for record in records] for name in names}
        # Said and not guessed: an empty answer has the same types as any.
        frame = pd.DataFrame(
            {name: pd.Series(column, dtype=_DTYPES[name]) for name, column in columns.items()}
        )
        return frame.set_index("id")

    def to_items(self) -> list[pystac.Item]:
        """STAC 1.1 items, in order, each with the asset ``icechunk`` where it is indexed.

        What they hold is said in ``catalog.stac_items``. Three statements, however many.
        """
        from pystac import Item

        items = []
        for document in self._items(self.records()):
            # pystac warns of reading what is deprecated: here it was asked for.
            deprecated = document["properties"].pop("deprecated", None)
            items.append(item := Item.from_dict(document, preserve_dict=False))
            if deprecated is not None:
                item.properties["deprecated"] = deprecated
        return items

    def items_as_dicts(self) -> Iterator[dict[str, Any]]:
        """As ``to_items``, as plain JSON values, made as they are asked for."""
        for batch in self._item_batches():
            yield from batch

    def to_geopandas(self) -> gpd.GeoDataFrame:
        """As ``to_pandas``, with the footprints as the geometry.

        They are cut at the antimeridian and lie within ±180 (RFC 7946); EPSG:4326,
        longitude latitude.

        Raises:
            ConfigError: geopandas is not installed.
        """
        try:
            import geopandas as gpd
        except ImportError as error:
            raise ConfigError("to_geopandas needs geopandas: pip install 'cogcat[geo]'") from error

        records = self.records()
        shapes = within_180([record.footprint for record in records])
        return gpd.GeoDataFrame(self._frame(records), geometry=shapes, crs="EPSG:4326")

    def to_geoparquet(self, path: str | os.PathLike[str]) -> int:
        """Write the items as stac-geoparquet; how many. Appears whole, or not at all.

        Raises:
            ConfigError: pyarrow is not installed, or the file cannot be written.
        """
        from catalog.item_table import write_items

        maker = self._catalog._item_maker()
        return write_items(
            path,
            self._item_batches(),
            schemes=maker.scheme_names,
            collections=self._catalog.collections(),
        )

    def _item_batches(self) -> Iterator[list[dict[str, Any]]]:
        for page in self.pages(ITEMS):
            if page.records:
                yield self._items(page.records)

    def _items(self, records: Sequence[SceneRecord]) -> list[dict[str, Any]]:
        with database.read_transaction(self._catalog._engine) as connection:
            described = item_rows.described_scenes(connection, records)
        maker = self._catalog._item_maker()
        return [maker.item(scene) for scene in described]
