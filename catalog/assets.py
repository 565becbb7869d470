"""Rows of files: lean in the table, whole to whoever reads them. Knows no Icechunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select

from catalog.bands import BANDS
from catalog.models import ASSETS, SCENE_REVISIONS, SCENES
from catalog.portable_sql import one_of
from catalog.recorded import AssetRecord, SceneRecord

_ORDER = {band.name: place for place, band in enumerate(BANDS)}


def assets_statement(records: Iterable[SceneRecord]) -> Select[Any]:
    """The files of these scenes, in one statement; for ``asset_records``."""
    return files_statement([found.pk for found in records])


def files_statement(scenes: Sequence[int]) -> Select[Any]:
    """The files of scenes by ``SceneRecord.pk``; for ``asset_records``."""
    return (
        select(
            ASSETS.c.scene_id,
            ASSETS.c.band,
            (SCENES.c.href_prefix + ASSETS.c.href).label("href"),
            ASSETS.c.size,
            ASSETS.c.etag,
            ASSETS.c.last_modified,
            ASSETS.c.checksum,
            ASSETS.c.header_sha256,
            ASSETS.c.header_length,
        )
        .join(SCENES, SCENES.c.id == ASSETS.c.scene_id)
        .where(one_of(ASSETS.c.scene_id, scenes))
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
    found: dict[tuple[int, datetime], dict[str, AssetRecord]] = {}
    for pk, at, rows in connection.execute(statement):
        if (pk, at) not in wanted:
            continue
        files = found[pk, at] = {}
        for row in sorted(rows, key=lambda row: _ORDER.get(row["band"], len(_ORDER))):
            moment = row["last_modified"]
            taken = None if moment is None else datetime.fromisoformat(moment)
            files[row["band"]] = AssetRecord(**row | {"last_modified": taken})
    return found


def asset_records(rows: Iterable[Row[Any]]) -> dict[int, dict[str, AssetRecord]]:
    """Files by ``SceneRecord.pk`` and band, in the order of ``bands.BANDS``."""
    scenes: dict[int, dict[str, AssetRecord]] = {}
    for pk, *values in sorted(
        map(tuple, rows), key=lambda row: (row[0], _ORDER.get(row[1], len(_ORDER)), row[1])
    ):
        scenes.setdefault(pk, {})[values[0]] = AssetRecord(*values)
    return scenes


def write_assets(
    connection: Connection, scenes: Mapping[int, tuple[str, Sequence[AssetRecord]]]
) -> None:
    """Add the files of scenes that have none, by the scene's key. One statement.

    Args:
        scenes: the beginning that the scene's hrefs share (``scenes.href_prefix``), its files.
    """
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
        }
        for key, (prefix, files) in sorted(scenes.items())
        # In the order of the key, which fills SQLite's pages better.
        for file in sorted(files, key=lambda file: file.band)
    ]
    if rows:
        connection.execute(insert(ASSETS), rows)


def remove_assets(connection: Connection, scenes: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Take the files of scenes out, as JSON values for their revisions. Two statements."""
    files: dict[int, list[dict[str, Any]]] = {key: [] for key in scenes}
    prefix = select(SCENES.c.href_prefix).where(SCENES.c.id == ASSETS.c.scene_id)
    held = select(ASSETS, prefix.scalar_subquery().label("prefix"))
    for row in connection.execute(held.where(one_of(ASSETS.c.scene_id, scenes))).mappings():
        file = dict(row)
        file["href"] = file.pop("prefix") + file["href"]
        if file["last_modified"] is not None:
            file["last_modified"] = file["last_modified"].isoformat()
        files[file.pop("scene_id")].append(file)
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
