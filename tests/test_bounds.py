"""How much one question may hold: at the limit it is answered, one beyond it is an error that says
both numbers; and what would end the process in native code is refused before."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from conftest import make_scene
from sqlalchemy import Engine
from stacks import child_environment

from catalog import bounds
from catalog.answers import Asker
from catalog.area import parse_geometry
from catalog.database import read_transaction, write_transaction
from catalog.errors import UsageError
from catalog.filter_cql2 import LONGEST
from catalog.query import Query
from catalog.records import record_pending
from catalog.registry import begin_crawl, register_collection, register_repository
from catalog.stac_query import StacQuery
from catalog.tile_boxes import TileBoxes

VALUES = bounds.MOST_VALUES


def ring(vertices: int) -> shapely.Polygon:
    """Closed: of so many vertices, the first counted twice."""
    angles = np.linspace(0, 2 * np.pi, vertices - 1, endpoint=False)
    return shapely.Polygon(np.stack([10 * np.cos(angles), 10 * np.sin(angles)], axis=1))


def star(points: int) -> shapely.Polygon:
    return shapely.Polygon(np.random.default_rng(0).uniform(-50, 50, (points, 2)))


FORMS: dict[str, Any] = {
    "shape": lambda shape: shape,
    "WKT": lambda shape: shape.wkt,
    "WKB": lambda shape: shape.wkb,
    "hex": lambda shape: shape.wkb_hex,
    "mapping": lambda shape: shape.__geo_interface__,
    "GeoJSON": shapely.to_geojson,
    "list": lambda shape: [shape],
}


@pytest.mark.parametrize("form", FORMS)
def test_vertices(form: str) -> None:
    most = bounds.MOST_VERTICES
    assert parse_geometry(FORMS[form](ring(most))).area == pytest.approx(np.pi * 100, rel=1e-4)
    with pytest.raises(UsageError, match=r"the area has 100,001 vertices, more than 100,000"):
        parse_geometry(FORMS[form](ring(most + 1)))


@pytest.mark.parametrize("ask", [Query.parse, StacQuery.parse])
def test_every_question_has_them(ask: Any) -> None:
    more = {"collection": "c"} if ask == StacQuery.parse else {}
    with pytest.raises(UsageError, match="vertices"):
        ask(intersects=ring(bounds.MOST_VERTICES + 1), **more)
    with pytest.raises(UsageError, match=r"100,001 values, more than 100,000"):
        ask(ids=[str(n) for n in range(VALUES + 1)], **more)
    with pytest.raises(UsageError, match=r"no end of values, more than 100,000"):
        ask(ids=map(str, itertools.count()), **more)


def test_a_long_text_is_refused_unread() -> None:
    text = "POINT(0 0)" + " " * bounds.MOST_TEXT
    with pytest.raises(UsageError, match=r"the area has 20,000,010 characters"):
        parse_geometry(text)
    with pytest.raises(UsageError, match=r"filter has 20,000,005 characters"):
        Query.parse(filter="id='a" + " " * bounds.MOST_TEXT)


def test_lines_that_cross() -> None:
    few = star(50)
    assert parse_geometry(few).equals(shapely.make_valid(few))
    for many in (
        star(300),
        star(99_000),
        shapely.MultiPolygon([star(200), shapely.box(80, 80, 81, 81)]),
        [shapely.LineString(np.random.default_rng(1).uniform(-50, 50, (2_000, 2)))],
        # These do not cross: they lie over each other.
        [shapely.box(n * 0.001, 0, n * 0.001 + 10, 10) for n in range(5_000)],
    ):
        with pytest.raises(UsageError, match=r"more than 500 times: it is no outline"):
            parse_geometry(many)
    tiles = [shapely.box(n % 40, n // 40, n % 40 + 1, n // 40 + 1) for n in range(1_000)]
    assert parse_geometry(tiles).equals(shapely.box(0, 0, 40, 25))


def test_values_of_in() -> None:
    texts = [f"'S2A_{n}'" for n in range(VALUES)]
    assert len(Query.parse(filter=f"id IN ({','.join(texts)})").filter.values[0]) == VALUES  # type: ignore[union-attr]
    half = ",".join(texts[: VALUES // 2])
    twice = f"id IN ({half}) OR id IN ({half})"
    Query.parse(filter=twice)
    with pytest.raises(UsageError, match=r"IN has 100,001 values, more than 100,000"):
        Query.parse(filter=f"{twice} OR id IN ('one more')")
    document = {"op": "in", "args": [{"property": "id"}, [str(n) for n in range(VALUES + 1)]]}
    for given in (document, json.dumps(document)):
        with pytest.raises(UsageError, match=r"IN has 100,001 values"):
            Query.parse(filter=given)


def test_conditions() -> None:
    Query.parse(filter=" OR ".join(["id NOT LIKE 'a'"] * (LONGEST // 2 - 1)))
    Query.parse(filter=" AND ".join(["cloud_cover BETWEEN 1 AND 5"] * (LONGEST - 1)))
    with pytest.raises(UsageError, match=r"more than 400 conditions; IN takes 100,000 values"):
        Query.parse(filter=" OR ".join(["id = 'a'"] * LONGEST))
    # Minus signs of coordinates are no operators.
    line = ", ".join(f"-{n / 1000} -45" for n in range(5_000))
    Query.parse(filter=f"S_INTERSECTS(geometry, LINESTRING({line}))")


def test_a_list_at_the_limit_is_answered(engine: Engine, tmp_path: Path) -> None:
    with write_transaction(engine) as connection:
        key = register_repository(connection, "u", str(tmp_path))
        register_collection(connection, "sentinel-2-c1-l2a")
        crawl = begin_crawl(connection, {})
        record_pending(connection, key, [make_scene("a"), make_scene("b")], crawl)
    ids = [f"S2A_{n}" for n in range(VALUES - 1)]
    quoted = ",".join(f"'{name}'" for name in [*ids, "b"])
    for asked in ({"ids": [*ids, "a"]}, {"filter": f"id IN ({quoted})"}):
        query = Query.parse(status=None, **asked)  # type: ignore[arg-type]
        with read_transaction(engine) as connection:
            found = Asker(connection, key, TileBoxes()).records(query)
        assert [scene.id for scene in found] == ["a" if "ids" in asked else "b"]


DEEP = 100_000


def nested_wkb(flag: bytes) -> bytes:
    return (flag + struct.pack("<I", 1)) * DEEP + shapely.to_wkb(shapely.Point(0, 0))


CHAINS = {
    "and": " AND ".join(["id = 'a'"] * DEEP),
    "or": " OR ".join(["id = 'a'"] * DEEP),
    "not": "NOT " * DEEP + "id = 'a'",
    "parentheses": "(" * DEEP + "id = 'a'" + ")" * DEEP,
    "functions": "a(" * DEEP + "1" + ")" * DEEP + " = 1",
    "casei": "CASEI(" * DEEP + "id" + ")" * DEEP + " = 'a'",
    "plus": "cloud_cover = " + "+".join(["1"] * DEEP),
    "minus": "cloud_cover = " + "-".join(["1"] * DEEP),
    "minus between blanks": "cloud_cover = " + " - ".join(["1"] * DEEP),
    "signs": "cloud_cover = " + "-" * DEEP + "1",
    "equal": "id " + "= id " * DEEP,
    "like": "id" + " LIKE 'a'" * DEEP,
    "is": "id" + " IS NULL" * DEEP,
    "in": "id" + " IN ('a')" * DEEP,
    "between": "id" + " BETWEEN 1 AND 2" * DEEP,
    "arrays": "[" * DEEP,
    "quotes": "'" * (DEEP + 1),
    "JSON": '{"op":"not","args":[' * DEEP + '{"op":"=","args":[1,1]}' + "]}" * DEEP,
    "WKT": "S_INTERSECTS(geometry, " + "GEOMETRYCOLLECTION(" * DEEP + "POINT(0 0)" + ")" * DEEP,
}  # fmt: skip
AREAS: dict[str, str | bytes] = {
    "WKT": "GEOMETRYCOLLECTION(" * DEEP + "POINT(0 0)" + ")" * DEEP,
    "half of WKT": "GEOMETRYCOLLECTION(" * DEEP,
    "EWKT": "SRID=4326;" + "GEOMETRYCOLLECTION(" * DEEP + "POINT(0 0)" + ")" * DEEP,
    "WKB": nested_wkb(b"\x01\x07\x00\x00\x00"),
    "WKB Z": nested_wkb(b"\x01\xef\x03\x00\x00"),
    "EWKB Z": nested_wkb(b"\x01\x07\x00\x00\x80"),
    "WKB, big endian": (b"\x00\x00\x00\x00\x07\x00\x00\x00\x01") * DEEP,
    "hex": nested_wkb(b"\x01\x07\x00\x00\x00").hex(),
    "GeoJSON": '{"type":"GeometryCollection","geometries":[' * DEEP + "]}" * DEEP,
}
PROGRAM = """
import json, sys
from catalog.errors import UsageError
from catalog.query import Query
for line in sys.stdin:
    name, question = json.loads(line)
    if "wkb" in question:
        question = {"intersects": bytes.fromhex(question["wkb"])}
    try:
        Query.parse(**question)
    except UsageError:
        print(name, flush=True)
"""


def test_nothing_nested_ends_the_process() -> None:
    asked: dict[str, dict[str, str]] = {f"filter {k}": {"filter": v} for k, v in CHAINS.items()}
    for name, area in AREAS.items():
        asked[f"area {name}"] = (
            {"intersects": area} if isinstance(area, str) else {"wkb": area.hex()}
        )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="".join(f"{json.dumps(one)}\n" for one in asked.items()),
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.splitlines() == list(asked), done.stderr[-2000:]
    assert done.returncode == 0
