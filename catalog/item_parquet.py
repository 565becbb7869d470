"""Items from a stac-geoparquet file, as stac-geoparquet and rustac write them, a few at a time.

An item that went through Parquet is not the document that was served: what was null or absent is
absent, times are written anew, numbers of one column have one type. ``item_sha256`` is of the
document as it is read here, so the same scene crawled from its API afterwards counts as changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely

from catalog.bounds import check_wkb
from catalog.errors import ConfigError, SourceError, first_line
from catalog.parquet_process import Broken, read_apart
from catalog.parse import format_datetime
from catalog.unreadable import UnreadableItem

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

log = logging.getLogger(__name__)

TOP_LEVEL = frozenset(
    ("type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets",
     "collection")
)  # fmt: skip
"""Members of an item; every other column is one of its properties."""
NEEDED = ("id", "geometry", "assets", "datetime")
_BOX = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
_BUFFER = 1 << 14
"""Bytes of each column that are read ahead: an item has some hundreds of columns."""


def read_parquet_items(path: Path) -> Iterator[dict[str, Any]]:
    """The STAC items in ``path``, in its order; at most some tens of them are held in memory.

    A process of its own reads the file (``parquet_process.py``), in bounded memory: what ends that
    costs the rest of a row group, and those behind it are read all the same.

    Raises:
        ConfigError: pyarrow is not installed.
        SourceError: not Parquet, not stac-geoparquet: at once; damaged, or larger in memory than
            it may be: after all that can be read.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow: pip install 'cogcat[parquet]'"
        ) from error
    number = readable = 0
    fault: str | None = None
    broken: list[Broken] = []
    for item in read_apart(path, broken):
        number += 1
        if isinstance(item, UnreadableItem):
            fault = fault or item.fault
            log.warning("%s: item %d: %s", path, number, item.fault)
        else:
            readable += 1
        yield item
    if broken:
        first = broken[0]
        where = f"after item {first.items}" if first.items else "from its start"
        more = f", nor are {len(broken) - 1} other row groups" if len(broken) > 1 else ""
        kept = "; the items of its other row groups are read" if number > first.items else ""
        raise SourceError(f"{path}: not readable {where}: {first.reason}{more}{kept}")
    if number == 0:
        raise SourceError(f"{path}: holds no item")
    if readable == 0:
        raise SourceError(f"{path}: not readable from its start: {fault}")


def read_here(path: Path, group: int, size: int) -> Iterator[int | dict[str, Any]]:
    """In this process: how many row groups there are, then the items of those from ``group`` on,
    ``size`` at a time, and after each group its number.

    Raises:
        SourceError: not Parquet, or not stac-geoparquet.
        ArrowException, OSError, ValueError: damaged.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path, buffer_size=_BUFFER)
        schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path}: not readable from its start: {first_line(error)}") from error
    with file:
        _check(schema, path)
        yield file.num_row_groups
        for number in range(group, file.num_row_groups):
            for batch in file.iter_batches(size, row_groups=[number], use_threads=False):
                yield from _items(batch)
            yield number


def _check(schema: Schema, path: Path) -> None:
    from pyarrow import types

    missing = [name for name in NEEDED if name not in schema.names]
    # A file may keep what could not be a column of its own in one named properties.
    if "properties" in schema.names and "datetime" in missing:
        missing.remove("datetime")
    if missing:
        raise SourceError(f"{path}: not stac-geoparquet: it has no column {missing[0]!r}")
    kind = _storage(schema.field("geometry").type)
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)):
        raise SourceError(f"{path}: its geometry is {kind}, not WKB")
    kind = schema.field("assets").type
    if not (types.is_struct(kind) or types.is_map(kind)):
        raise SourceError(f"{path}: its assets are {kind}, not a struct")


def _storage(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def _items(batch: RecordBatch) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException

    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        plain = getattr(column, "storage", column)
        try:
            columns[name] = _coarse(plain).to_pylist(maps_as_pydicts="lossy")
        except (ArrowException, ValueError, TypeError, OverflowError) as error:
            # One row's fault is not that of the others of its batch.
            if batch.num_rows > 1:
                for row in range(batch.num_rows):
                    yield from _items(batch.slice(row, 1))
                return
            known = columns.get("id", [None])[0]
            yield _unreadable(f"its {name} cannot be read: {first_line(error)}", known)
            return
    for row in range(batch.num_rows):
        values = {name: column[row] for name, column in columns.items()}
        name = values.get("id")
        try:
            yield _item(values)
        except (ValueError, TypeError, OverflowError, shapely.errors.ShapelyError) as error:
            yield _unreadable(first_line(error), name)
        except RecursionError:
            yield _unreadable("nested too deeply", name)


def _unreadable(fault: str, name: Any) -> UnreadableItem:
    return UnreadableItem(fault, repr(name), id=name if isinstance(name, str) else None)


def _coarse(column: Any) -> Any:
    """Times in microseconds: Python has no finer ones."""
    from pyarrow import timestamp, types

    if types.is_timestamp(column.type) and column.type.unit == "ns":
        return column.cast(timestamp("us", column.type.tz), safe=False)
    return column


def _item(row: dict[str, Any]) -> dict[str, Any]:
    geometry, box = row.pop("geometry"), row.pop("bbox", None)
    item: dict[str, Any] = {"type": "Feature"}
    item |= {name: _json(row[name]) for name in row if name in TOP_LEVEL and row[name] is not None}
    item["geometry"] = None if geometry is None else _geometry(geometry)
    if isinstance(box, dict):
        item["bbox"] = [box[name] for name in _BOX if name in box]
    elif box is not None:
        item["bbox"] = _json(box)
    # A file has one struct for the assets of all its items: those it lacks are empty here.
    assets = item.get("assets")
    if isinstance(assets, dict):
        item["assets"] = {key: asset for key, asset in assets.items() if asset}
    others = row.get("properties")
    properties = others if isinstance(others, dict) else {}
    properties |= {name: row[name] for name in row if name not in (*TOP_LEVEL, "properties")}
    item["properties"] = _json(properties)
    return item


def _geometry(wkb: bytes) -> Any:
    # Shapes in shapes, some thousands deep, would end the process.
    check_wkb(wkb)
    shape = shapely.from_wkb(wkb)
    return _json(shapely.geometry.mapping(shape))


def _json(value: Any) -> Any:
    """``value`` as JSON has it; members that are null are left out."""
    match value:
        case dict():
            return {key: _json(member) for key, member in value.items() if member is not None}
        case list() | tuple():
            return [_json(member) for member in value]
        case datetime():
            # Without a zone it is UTC: STAC knows no other.
            return format_datetime(value if value.tzinfo else value.replace(tzinfo=UTC))
        case date():
            return value.isoformat()
        case Decimal():
            return float(value)
        case bytes():
            return value.hex()
        case _:
            return value
