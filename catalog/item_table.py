"""STAC items as stac-geoparquet: a file of WKB geometries with the properties as columns.

Columns are those of https://github.com/stac-utils/stac-geoparquet (spec 1.0), metadata those of
GeoParquet 1.1. The schema is fixed by what an item of ``stac_items`` may have, not guessed from
the first items: every file has the same columns, and a batch is written as soon as it is made.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from catalog.errors import ConfigError
from catalog.stac_items import ASSET_KEYS, ICECHUNK_ASSET

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4000
"""Items in one row group."""

_TIMES = ("datetime", "created", "updated")
_BOX = ("xmin", "ymin", "xmax", "ymax")


def write_items(
    path: str | os.PathLike[str],
    batches: Iterable[Sequence[Mapping[str, Any]]],
    *,
    schemes: Iterable[str] = (),
    collections: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Write items to ``path`` as stac-geoparquet; how many.

    The file is written beside its place and moved there whole: until then, whatever happens,
    what was there stays. Holds one row group in memory.

    Args:
        batches: items of ``stac_items``, some at a time, in the order of the file.
        schemes: every key that ``storage:schemes`` may have.
        collections: documents to keep in the file's metadata.

    Raises:
        ConfigError: pyarrow is not installed, or the directory cannot be written to.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"{path}: Parquet needs pyarrow: pip install 'cogcat[parquet]'"
        ) from error
    schema = item_schema(schemes)
    metadata = {
        "geo": json.dumps(_geo_metadata()),
        "stac-geoparquet": json.dumps(
            {"version": "1.0.0", "collections": {c["id"]: c for c in collections}}
        ),
    }
    written = 0
    with (
        beside(Path(path)) as partial,
        parquet.ParquetWriter(
            partial, schema.with_metadata(metadata), compression="zstd"
        ) as writer,
    ):
        held: list[Any] = []
        rows = 0
        for batch in batches:
            held.append(_record_batch(batch, schema))
            rows += len(batch)
            written += len(batch)
            if rows >= ROWS:
                writer.write_table(pa.Table.from_batches(held, schema))
                held, rows = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held, schema))
    return written


def item_schema(schemes: Iterable[str] = ()) -> pa.Schema:
    """Arrow schema of a file of items: every field they may have, null where one has it not.

    Args:
        schemes: every key that ``storage:schemes`` may have.
    """
    import pyarrow as pa

    text, texts, flag = pa.string(), pa.list_(pa.string()), pa.bool_()
    number, count, time = pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")
    link = pa.struct([("rel", text), ("href", text), ("type", text)])
    band = pa.struct([("name", text), ("eo:common_name", text), ("eo:center_wavelength", number)])
    file = [("href", text), ("type", text), ("title", text), ("roles", texts)]
    checksum = [("file:checksum", text), ("storage:refs", texts)]
    cog = pa.struct(
        [
            *file,
            ("bands", pa.list_(band)),
            ("proj:shape", pa.list_(count)),
            ("proj:transform", pa.list_(number)),
            ("data_type", text),
            ("nodata", count),
            ("gsd", number),
            ("raster:scale", number),
            ("raster:offset", number),
            ("file:size", count),
            *checksum,
        ]
    )
    icechunk = pa.struct(
        [
            *file,
            ("version", text),
            ("deprecated", flag),
            ("zarr:zarr_format", count),
            ("zarr:node_type", text),
            ("zarr:consolidated", flag),
            ("cogcat:branch", text),
            ("cogcat:group", text),
            ("cogcat:time_index", count),
            ("bands", pa.list_(pa.struct([("name", text)]))),
            ("vrt:hrefs", pa.list_(pa.struct([("key", text), ("href", text)]))),
            *checksum,
        ]
    )
    scheme = pa.struct(
        [
            *((name, text) for name in ("type", "platform", "bucket", "region")),
            ("requester_pays", flag),
            ("anonymous", flag),
        ]
    )
    keys = list(schemes)
    storage = [("storage:schemes", pa.struct([(key, scheme) for key in keys]))] if keys else []
    return pa.schema(
        [
            pa.field("type", text),
            ("stac_version", text),
            ("stac_extensions", texts),
            ("id", text),
            ("collection", text),
            pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"}),
            ("bbox", pa.struct([(side, number) for side in _BOX])),
            ("links", pa.list_(link)),
            (
                "assets",
                pa.struct(
                    [(key, icechunk if key == ICECHUNK_ASSET else cog) for key in ASSET_KEYS]
                ),
            ),
            *((name, time) for name in _TIMES),
            ("platform", text),
            ("constellation", text),
            ("instruments", texts),
            ("eo:cloud_cover", number),
            ("grid:code", text),
            ("mgrs:utm_zone", count),
            ("mgrs:latitude_band", text),
            ("mgrs:grid_square", text),
            ("proj:code", text),
            ("processing:level", text),
            ("processing:version", text),
            ("s2:processing_baseline", text),
            ("s2:mgrs_tile", text),
            ("deprecated", flag),
            *storage,
            ("cogcat:status", text),
            ("cogcat:revision", count),
            ("cogcat:recorded_at", text),
            ("cogcat:acquisition", text),
            ("cogcat:boa_offset", count),
            ("cogcat:boa_evidence", text),
            ("cogcat:warnings", texts),
            ("cogcat:item_sha256", text),
            ("cogcat:last_error", text),
        ]
    )


def _record_batch(items: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    shapes = np.array([shapely.geometry.shape(item["geometry"]) for item in items], dtype=object)
    rows = []
    for item, wkb in zip(items, shapely.to_wkb(shapes, flavor="iso"), strict=True):
        row = {**item, **item["properties"]}
        del row["properties"]
        row["geometry"] = wkb
        row["bbox"] = dict(zip(_BOX, item["bbox"], strict=True))
        for name in _TIMES:
            if name in row:
                row[name] = datetime.fromisoformat(row[name])
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def _geo_metadata() -> dict[str, Any]:
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                # Not named: readers that make one type of two give every polygon as a multipolygon.
                "geometry_types": [],
                "orientation": "counterclockwise",
                "covering": {"bbox": {side: ["bbox", side] for side in _BOX}},
            }
        },
    }


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A new file in the directory of ``path``, which takes its place at the end."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
