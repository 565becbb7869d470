"""Rows of files: lean in the table, whole to whoever reads them. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Select, delete, insert, select, tuple_

from catalog.bands import band_place
from catalog.errors import ConfigError, first_line
from catalog.models import ASSETS, RASTERS, SCENE_REVISIONS, SCENES
from catalog.portable_sql import is_text, one_of, one_of_these, upsert
from catalog.recorded import AssetRecord, Raster, SceneRecord

_FILE = ("href", "size", "etag", "last_modified", "checksum", "header_sha256", "header_length")
_RASTER = ("width", "height", "x", "y", "pixel_width", "pixel_height", "dtype", "nodata")


def read_assets(connection: Connection, scenes: Sequence[int]) -> dict[int, dict[str, AssetRecord]]:
    """The files of scenes, by ``SceneRecord.pk`` and band, in the order of ``bands.BANDS``; those
    that have none are absent. One statement."""
    rows = list(map(tuple, connection.execute(_files(), {"scenes": list(scenes)})))
    found: dict[int, dict[str, AssetRecord]] = {}
    with _sound():
        rows.sort(key=lambda row: (row[0], band_place(row[1])))
        for pk, band, *rest in rows:
            own: dict[str, Any] = dict(zip(_FILE, rest[: len(_FILE)], strict=True))
            is_text(own["href"])
            raster = _raster(*rest[len(_FILE) :])
            found.setdefault(pk, {})[band] = AssetRecord(band=band, **own, raster=raster)
    return found


@contextmanager
def _sound() -> Iterator[None]:
    """Around what is made of rows.

    Raises:
        ConfigError: they are not as they were written.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the database is damaged: the files of a scene are no files ({first_line(error)})"
        ) from error


@cache
def _files() -> Select[Any]:
    return (
        select(
            ASSETS.c.scene_id,
            ASSETS.c.band,
            (SCENES.c.href_prefix + ASSETS.c.href).label("href"),
            *(ASSETS.c[name] for name in _FILE[1:]),
            *(RASTERS.c[name] for name in _RASTER),
        )
        .join(SCENES, SCENES.c.id == ASSETS.c.scene_id)
        .join(RASTERS, RASTERS.c.id == ASSETS.c.raster_id, isouter=True)
        .where(one_of_these(ASSETS.c.scene_id, "scenes"))
    )


def past_assets(
    connection: Connection, records: Sequence[SceneRecord]
) -> dict[tuple[int, datetime], dict[str, AssetRecord]]:
    """Files of earlier states of scenes, by ``SceneRecord.pk`` and ``recorded_at``, then by band;
    present states are absent. One statement."""
    then = SCENE_REVISIONS.c
    wanted = {(record.pk, record.recorded_at) for record in records}
    statement = select(then.scene_id, then.recorded_at, then.assets).where(
        one_of(then.scene_id, sorted({pk for pk, _ in wanted}))
    )
    with _sound():
        return {
            (pk, at): dict(map(_past_file, sorted(rows, key=lambda row: band_place(row["band"]))))
            for pk, at, rows in connection.execute(statement)
            if (pk, at) in wanted
        }


def _past_file(row: Mapping[str, Any]) -> tuple[str, AssetRecord]:
    moment = row["last_modified"]
    taken = None if moment is None else datetime.fromisoformat(moment)
    # Files of states that were replaced before rasters were recorded have none.
    raster = row.get("raster")
    if raster is not None:
        raster = Raster(**raster | {"transform": tuple(raster["transform"])})
    return row["band"], AssetRecord(**dict(row) | {"last_modified": taken, "raster": raster})


@lru_cache(1024)
def _raster(
    width: int | None,
    height: int,
    x: float,
    y: float,
    pixel_width: float,
    pixel_height: float,
    dtype: str,
    nodata: str,
) -> Raster | None:
    if width is None:
        return None
    transform = (pixel_width, 0.0, x, 0.0, -pixel_height, y)
    return Raster(width, height, transform, dtype, int(nodata) if nodata else None)


def write_assets(
    connection: Connection, scenes: Mapping[int, tuple[str, Sequence[AssetRecord]]]
) -> None:
    """Add the files of scenes that have none, by the scene's key. Three statements.

    Args:
        scenes: the beginning that the scene's hrefs share (``scenes.href_prefix``), its files.
    """
    keys = _raster_keys(
        connection,
        {file.raster for _, files in scenes.values() for file in files if file.raster is not None},
    )
    rows = [
        {
            "scene_id": key,
            "band": file.band,
            "href": file.href.removeprefix(prefix),
            "size": file.size,
            "etag": file.etag,
            "last_modified": file.last_modified,
            "checksum": file.checksum,
            "header_sha256": file.header_sha256,
            "header_length": file.header_length,
            "raster_id": None if file.raster is None else keys[file.raster],
        }
        for key, (prefix, files) in sorted(scenes.items())
        # In the order of the key, which fills SQLite's pages better.
        for file in sorted(files, key=lambda file: file.band)
    ]
    if rows:
        connection.execute(insert(ASSETS), rows)


def _raster_keys(connection: Connection, rasters: Iterable[Raster]) -> dict[Raster, int]:
    """The key of each, made where it is new."""
    rows = {raster: _raster_row(raster) for raster in sorted(rasters, key=repr)}
    if not rows:
        return {}
    connection.execute(
        upsert(connection.dialect.name, RASTERS).on_conflict_do_nothing(), list(rows.values())
    )
    corners = {(row["y"], row["x"]) for row in rows.values()}
    found = connection.execute(
        select(RASTERS.c.id, *(RASTERS.c[name] for name in _RASTER)).where(
            tuple_(RASTERS.c.y, RASTERS.c.x).in_(sorted(corners))
        )
    )
    keys = {tuple(values): key for key, *values in found}
    return {raster: keys[tuple(row.values())] for raster, row in rows.items()}


def _raster_row(raster: Raster) -> dict[str, Any]:
    pixel_width, _, x, _, pixel_height, y = raster.transform
    nodata = "" if raster.nodata is None else str(raster.nodata)
    values = (raster.width, raster.height, x, y, pixel_width, -pixel_height, raster.dtype, nodata)
    return dict(zip(_RASTER, values, strict=True))


def remove_assets(connection: Connection, scenes: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Take the files of scenes out, as JSON values for their revisions. Two statements."""
    files: dict[int, list[dict[str, Any]]] = {key: [] for key in scenes}
    for pk, held in read_assets(connection, scenes).items():
        for file in held.values():
            moment = file.last_modified
            kept = {"last_modified": None if moment is None else moment.isoformat()}
            files[pk].append(asdict(file) | kept)
    connection.execute(delete(ASSETS).where(one_of(ASSETS.c.scene_id, scenes)))
    return files


def common_directory(hrefs: Sequence[str]) -> str:
    """The longest common beginning that ends in ``/``."""
    if not hrefs:
        return ""
    # What the first and the last in order share, all between them share.
    first, last = min(hrefs), max(hrefs)
    same = next(
        (n for n, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1),
        len(first),
    )
    return first[: first.rfind("/", 0, same) + 1]
