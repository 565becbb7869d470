"""Items that went through a stac-geoparquet file make the scenes that the originals make."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rustac
import shapely
import stac_geoparquet.arrow
from stacks import SCENES, Stack

from catalog import item_parquet
from catalog.errors import ConfigError, SourceError
from catalog.item import scene_from_item
from catalog.item_file import read_items
from catalog.scene import Scene
from catalog.unreadable import UnreadableItem

pytest_plugins = ["stacks"]

Item = dict[str, Any]


def with_stac_geoparquet(items: list[Item], path: Path) -> None:
    stac_geoparquet.arrow.to_parquet(stac_geoparquet.arrow.parse_stac_items_to_arrow(items), path)


def with_rustac(items: list[Item], path: Path) -> None:
    async def write() -> None:
        await rustac.write(str(path), items)

    asyncio.run(write())


Writer = Callable[[list[Item], Path], None]
WRITERS = [with_stac_geoparquet, with_rustac]


def facts(scene: Scene) -> Item:
    """All of a scene but the digest of its document, which is another."""
    return {f.name: getattr(scene, f.name) for f in fields(scene) if f.name != "item_sha256"}


def real_items(shared_data: Path, kind: str) -> list[Item]:
    return [
        json.loads(path.read_text()) for path in sorted((shared_data / "items").glob(f"{kind}/*"))
    ]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", ["earth-search-c1", "earth-search-l2a", "planetary-computer", "*"])
def test_real_items_come_back_as_the_same_scenes(
    shared_data: Path, tmp_path: Path, kind: str, write: Writer
) -> None:
    items = real_items(shared_data, kind)
    # The last kind is all of them in one file: what some lack is null there.
    items = items[:20] if kind != "*" else items[::5]
    path = tmp_path / "items.parquet"
    write(items, path)
    read = list(read_items(path))
    assert [item["id"] for item in read] == [item["id"] for item in items]
    for before, after in zip(items, read, strict=True):
        json.dumps(after, allow_nan=False)
        assert facts(scene_from_item(after)) == facts(scene_from_item(before))
    assert list(read_items(path)) == read


@pytest.mark.parametrize("write", WRITERS)
def test_a_crawl_of_a_parquet_file_is_a_crawl(
    local_stack: Stack, tmp_path: Path, write: Writer
) -> None:
    server = local_stack.server
    text = json.dumps(local_stack.items).replace(server.archive.base_url, server.url)
    path = tmp_path / "items.parquet"
    write(json.loads(text), path)
    for expected in ("new", "unchanged"):
        result = local_stack.cli("crawl", "--items", path, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)[expected] == SCENES


@pytest.fixture
def table(c1_archive: Any) -> pa.Table:
    items = c1_archive.items["earth-search-c1"]
    return pa.table(stac_geoparquet.arrow.parse_stac_items_to_arrow(items))


def read_table(table: pa.Table, tmp_path: Path) -> list[Item]:
    path = tmp_path / "items.parquet"
    pq.write_table(table, path)
    return list(read_items(path))


def swap(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def test_other_writers_types_are_understood(table: pa.Table, tmp_path: Path) -> None:
    expected = read_table(table, tmp_path)
    assert len(expected) == SCENES
    moments = table["datetime"].cast(pa.timestamp("us", "UTC"))
    wide = swap(table, "geometry", table["geometry"].cast(pa.large_binary()))
    nanoseconds = swap(table, "datetime", moments.cast(pa.timestamp("ns", "UTC")))
    no_zone = swap(table, "datetime", moments.cast(pa.timestamp("us")))
    elsewhere = swap(table, "datetime", moments.cast(pa.timestamp("us", "Asia/Kathmandu")))
    text = [moment.isoformat() for moment in moments.to_pylist()]
    as_text = swap(table, "datetime", pa.array(text))
    assets = table["assets"].to_pylist()
    kind = table.schema.field("assets").type[0].type
    mapped = swap(
        table,
        "assets",
        pa.array(
            [[(key, asset) for key, asset in row.items()] for row in assets],
            pa.map_(pa.string(), kind),
        ),
    )
    boxes = table["bbox"].to_pylist()
    listed = swap(table, "bbox", pa.array([list(box.values()) for box in boxes]))
    # Its type and STAC version may go without saying.
    bare = table.drop_columns(["type"])
    for other in (wide, nanoseconds, no_zone, elsewhere, listed, bare):
        assert read_table(other, tmp_path) == expected
    assert len(read_table(mapped, tmp_path)) == SCENES
    for other in (as_text, mapped):
        for before, after in zip(expected, read_table(other, tmp_path), strict=True):
            found = facts(scene_from_item(after))
            wanted = facts(scene_from_item(before))
            assert found["datetime"] == wanted["datetime"]
            assert {a.band: a.href for a in found["assets"]} == {
                a.band: a.href for a in wanted["assets"]
            }
    assert scene_from_item(expected[0]).datetime.tzinfo == UTC


def test_a_scene_without_a_geometry_is_that_scene_s_fault(table: pa.Table, tmp_path: Path) -> None:
    shapes = table["geometry"].to_pylist()
    read = read_table(swap(table, "geometry", pa.array([None, *shapes[1:]])), tmp_path)
    assert len(read) == SCENES
    assert read[0]["geometry"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["assets"]), "no column 'assets'"),
        (lambda t: t.drop_columns(["datetime"]), "no column 'datetime'"),
        (lambda t: pa.table({"a": [1, 2]}), "not stac-geoparquet: it has no column 'id'"),
        (lambda t: swap(t, "geometry", pa.array(["POINT (0 0)"] * SCENES)), "string, not WKB"),
        (lambda t: swap(t, "geometry", pa.array([b"\x01oh"] * SCENES)), "from its start"),
        (lambda t: swap(t, "assets", pa.array(["{}"] * SCENES)), "not a struct"),
        (lambda t: t.slice(0, 0), "holds no item"),
    ],
)
def test_parquet_that_holds_no_items(
    table: pa.Table, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read_table(change(table), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_damaged_file_is_said_to_be_one(table: pa.Table, tmp_path: Path, part: float) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(table, path)
    whole = path.read_bytes()
    at = int(len(whole) * part)
    path.write_bytes(whole[:at])
    with pytest.raises(SourceError, match="not readable"):
        list(read_items(path))
    path.write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    with pytest.raises(SourceError, match="not readable"):
        list(read_items(path))


def test_what_comes_before_the_damage_is_crawled(local_stack: Stack, tmp_path: Path) -> None:
    server = local_stack.server
    text = json.dumps(local_stack.items).replace(server.archive.base_url, server.url)
    path = tmp_path / "items.parquet"
    with_stac_geoparquet(json.loads(text), path)
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    start = file.metadata.row_group(1).column(2).file_offset or (
        file.metadata.row_group(1).column(2).data_page_offset
    )
    file.close()
    whole = bytearray(path.read_bytes())
    whole[start : start + 64] = bytes(64)
    path.write_bytes(bytes(whole))
    result = local_stack.cli("crawl", "--items", path)
    assert result.exit_code == 2
    assert "not readable after item 4" in result.stderr
    ((indexed,),) = local_stack.rows("SELECT count(*) FROM scenes WHERE status = 'indexed'")
    assert indexed == 4


def test_without_pyarrow_it_says_what_to_install(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(table, path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'cogcat\[parquet\]'"):
        next(read_items(path))


def test_a_large_file_is_read_in_pieces(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one item of a later batch is made before those of the first are taken."""
    made: list[datetime] = []
    item = item_parquet._item
    monkeypatch.setattr(
        item_parquet, "_item", lambda row: made.append(row["datetime"]) or item(row)
    )
    path = tmp_path / "items.parquet"
    pq.write_table(pa.concat_tables([table] * 40), path, row_group_size=100)
    items = item_parquet.read_here(path, 0, 64)
    assert next(items) == 3
    next(items)
    assert len(made) == 1
    assert sum(isinstance(found, dict) for found in items) == 40 * SCENES - 1


# Hostile files


def hostile(path: Path, rows: int = 6, **columns: Any) -> Path:
    """Items ``s0`` … in row groups of a third, with more columns."""
    made = {
        "id": [f"s{n}" for n in range(rows)],
        "geometry": [shapely.box(0, 0, 1, 1).wkb] * rows,
        "assets": [{"red": {"href": "https://x.org/red.tif"}}] * rows,
        "datetime": ["2023-01-01T00:00:00Z"] * rows,
    }
    pq.write_table(
        pa.table(made | columns),
        path,
        row_group_size=rows // 3,
        compression="zstd",
        write_statistics=False,
        use_dictionary=["title"],
        dictionary_pagesize_limit=2**30,
    )
    assert path.stat().st_size < 2**17
    return path


def taken(path: Path) -> tuple[list[Item], str]:
    """What is read, and the error at its end."""
    items: list[Item] = []
    try:
        items.extend(read_items(path))
    except SourceError as error:
        return items, str(error)
    return items, ""


@pytest.mark.parametrize("bomb", ["text", "list"])
def test_what_inflates_ends_a_process_that_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    if bomb == "text":
        column: Any = pa.array(["a", "b", "c", "x" * 2**27, "e", "f"])
    else:
        ends = pa.array([0, 1, 2, 3, *(2**25 + n for n in range(3))], pa.int32())
        column = pa.ListArray.from_arrays(ends, pa.array(np.zeros(2**25 + 2, np.int8)))
    path = hostile(tmp_path / "a.parquet", **{bomb: column})
    monkeypatch.setattr("catalog.parquet_process.MEMORY", 120 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items, said = taken(path)
    # All but its row group: of it, one page has both rows.
    assert [item["id"] for item in items] == ["s0", "s1", "s4", "s5"]
    assert said.startswith(f"{path}: not readable after item 2: it takes more than 120 MB")
    assert said.endswith("; the items of its other row groups are read")
    assert "write it anew in smaller row groups, or as NDJSON" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_what_fits_one_at_a_time_is_read_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dictionary of one long text, which every item has."""
    path = hostile(tmp_path / "a.parquet", 24, title=pa.array(["x" * 2**23] * 24))
    monkeypatch.setattr("catalog.parquet_process.MEMORY", 100 << 20)
    ids = [(item["id"], len(item["properties"]["title"])) for item in read_items(path)]
    assert ids == [(f"s{n}", 2**23) for n in range(24)]


def test_a_value_that_cannot_be_one_is_its_item_s_fault(tmp_path: Path) -> None:
    text = pa.array([b"a", b"b", b"c", b"\xff", b"e", b"f"]).view(pa.string())
    late = pa.array([0, 0, 2**62, 0, 0, 0], pa.int64()).view(pa.timestamp("us", "UTC"))
    items, said = taken(hostile(tmp_path / "a.parquet", text=text, late=late))
    assert said == ""
    assert [item["id"] for item in items] == [f"s{n}" for n in range(6)]
    faults = {item["id"]: item.fault for item in items if isinstance(item, UnreadableItem)}
    assert sorted(faults) == ["s2", "s3"]
    assert faults["s2"].startswith("its late cannot be read: ")
    assert faults["s3"].startswith("its text cannot be read: ")


def test_a_column_that_is_nested_a_thousand_deep(tmp_path: Path) -> None:
    kind: Any = pa.int8()
    for _ in range(1000):
        kind = pa.struct([("a", kind)])
    schema = pa.schema([("id", pa.string()), ("deep", kind)])
    pq.ParquetWriter(tmp_path / "a.parquet", schema).close()
    items, said = taken(tmp_path / "a.parquet")
    assert items == []
    assert said.startswith(f"{tmp_path}/a.parquet: not readable from its start: ")
    assert "nested" in said


def test_native_code_that_ends_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hostile(tmp_path / "a.parquet")
    monkeypatch.setattr("catalog.parquet_process._START", "import os; os.abort()")
    items, said = taken(path)
    assert items == []
    assert said == (
        f"{path}: not readable from its start: reading it ended its process (exit code -6): it is "
        "damaged"
    )


def test_who_reads_no_further_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        "catalog.parquet_process.subprocess.Popen",
        lambda *words, **how: started.append(popen(*words, **how)) or started[-1],
    )
    items = read_items(hostile(tmp_path / "a.parquet"))
    assert next(items)["id"] == "s0"
    items.close()  # type: ignore[attr-defined]
    assert started[0].returncode is not None
