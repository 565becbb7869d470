"""Bounds of what may be asked: at each it is answered, one beyond it is an error with both numbers.

What ended the process before it was bounded is asked in another process.
"""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cql2
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from sqlalchemy import Engine
from stacks import child_environment
from test_filter import _fill, _rows

from catalog import filter_bounds
from catalog.answers import Asker
from catalog.area import intersects_footprint, parse_geometry, query_geometry
from catalog.bounds import (
    DEEPEST,
    LONGEST_TEXT,
    MOST_CONDITIONS,
    MOST_PIECES,
    MOST_VALUES,
    MOST_VERTICES,
)
from catalog.cli import main
from catalog.database import read_transaction
from catalog.errors import UsageError
from catalog.filter_cql2 import parse_filter
from catalog.footprint import footprint
from catalog.item_parquet import _geometry
from catalog.mending import mended
from catalog.query import Query
from catalog.stac_query import StacQuery
from catalog.tile_boxes import TileBoxes


def circle(vertices: int) -> shapely.Polygon:
    angles = np.linspace(0, 2 * np.pi, vertices - 1, endpoint=False)
    ring = np.column_stack([-121 + 3 * np.cos(angles), 44 + 3 * np.sin(angles)])
    return shapely.Polygon(ring)


def refused(ask: Callable[[], Any], count: str, most: int) -> str:
    """Checks that the error names both numbers, and that it costs little: CPU time, since other
    tests run beside."""
    began = time.process_time()
    with pytest.raises(UsageError) as caught:
        ask()
    took = time.process_time() - began
    message = str(caught.value)
    assert f"{count} " in message
    assert str(most) in message.replace(count, "", 1)
    # Measured: a fifth of it, or much less.
    assert took < 5
    return message


def memory_of(ask: Callable[[], Any]) -> int:
    """Bytes that a question takes which is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(UsageError):
            ask()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


FORMS: dict[str, Callable[[shapely.Polygon], Any]] = {
    "shapely": lambda shape: shape,
    "WKT": lambda shape: shape.wkt,
    "WKB": lambda shape: shape.wkb,
    "hex": lambda shape: shape.wkb_hex,
    "EWKB": lambda shape: shapely.to_wkb(shapely.set_srid(shape, 4326), include_srid=True),
    "GeoJSON": shapely.geometry.mapping,
    "text": lambda shape: json.dumps(shapely.geometry.mapping(shape)),
    "feature": lambda shape: {"type": "Feature", "geometry": shapely.geometry.mapping(shape)},
    "arrays": lambda shape: {
        "type": "Polygon", "coordinates": [shapely.get_coordinates(shape)]
    },
    "list": lambda shape: [shapely.Point(0, 0), shape.wkt],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_vertices_of_an_area_are_bounded_in_every_form(form: str) -> None:
    others = form == "list"
    most = FORMS[form](circle(MOST_VERTICES - others))
    beyond = FORMS[form](circle(MOST_VERTICES - others + 1))
    assert shapely.get_num_coordinates(parse_geometry(most)) == MOST_VERTICES
    refused(lambda: parse_geometry(beyond), str(MOST_VERTICES + 1), MOST_VERTICES)
    assert memory_of(lambda: parse_geometry(beyond)) < 60e6


def test_vertices_are_counted_over_all_parts() -> None:
    half = shapely.geometry.mapping(circle(MOST_VERTICES // 2 + 1))
    features = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "geometry": half}] * 2,
    }
    both = [{"op": "s_intersects", "args": [{"property": "geometry"}, half]}] * 2
    count = str(MOST_VERTICES + 2)
    refused(lambda: parse_geometry(features), count, MOST_VERTICES)
    refused(lambda: parse_geometry([half, half]), count, MOST_VERTICES)
    refused(lambda: Query.parse(filter={"op": "and", "args": both}), count, MOST_VERTICES)
    wkt = circle(MOST_VERTICES + 1).wkt
    said = lambda: Query.parse(filter=f"S_INTERSECTS(geometry, {wkt})")  # noqa: E731
    refused(said, str(MOST_VERTICES + 1), MOST_VERTICES)


def test_an_area_at_the_limit_is_asked_within_seconds() -> None:
    began = time.process_time()
    area = parse_geometry(circle(MOST_VERTICES).wkt)
    around = shapely.box(-122, 43, -121, 44).wkb
    assert intersects_footprint([around] * 1000, query_geometry(area)).all()
    assert time.process_time() - began < 20


def collections(levels: int) -> str:
    return "GEOMETRYCOLLECTION(" * levels + "POINT(1 2)" + ")" * levels


def test_depth_of_an_area_is_bounded_in_every_form() -> None:
    inside = collections(DEEPEST - 1)
    assert parse_geometry(inside).wkt == "POINT (1 2)"
    refused(lambda: parse_geometry(collections(DEEPEST)), str(DEEPEST + 1), DEEPEST)
    head, point = struct.pack("<BII", 1, 7, 1), shapely.Point(1, 2)
    assert parse_geometry(head * DEEPEST + point.wkb).equals(point)
    refused(lambda: parse_geometry(head * (DEEPEST + 1) + point.wkb), str(DEEPEST + 1), DEEPEST)
    document: Any = shapely.geometry.mapping(point)
    shape: Any = point
    several: Any = point
    for _ in range(DEEPEST):
        document = {"type": "GeometryCollection", "geometries": [document]}
        shape = shapely.GeometryCollection([shape])
        several = [several]
    for given in (document, json.dumps(document), shape):
        assert parse_geometry(given).equals(point)
    more = {"type": "GeometryCollection", "geometries": [document]}
    for given in (more, json.dumps(more), shapely.GeometryCollection([shape])):
        refused(lambda given=given: parse_geometry(given), f"more than {DEEPEST}", DEEPEST)
    refused(lambda: parse_geometry([several]), str(DEEPEST + 1), DEEPEST)


def test_crossings_of_an_area_are_bounded() -> None:
    def grid(rows: int, columns: int) -> shapely.MultiLineString:
        across = [[(-50, y), (50, y)] for y in np.linspace(-40, 40, rows)]
        down = [[(x, -45), (x, 45)] for x in np.linspace(-40, 40, columns)]
        return shapely.MultiLineString(across + down)

    assert mended(grid(40, 25), 1000, 1).is_valid
    with pytest.raises(ValueError, match="more than 1000 places, and 1000 is the most"):
        mended(grid(41, 25), 1000, 1)
    star = shapely.Polygon(np.random.default_rng(0).uniform(-50, 50, (3000, 2)))
    refused(lambda: parse_geometry(star), "more than 100000", 100_000)
    refused(lambda: parse_geometry(grid(1000, 1000)), "more than 100000", 100_000)
    strips = [shapely.box(-50, y, 50, y + 0.001) for y in np.linspace(-50, 50, 1000)]
    strips += [shapely.box(x, -50, x + 0.001, 50) for x in np.linspace(-50, 50, 1000)]
    with pytest.raises(UsageError, match="more than 100000 places"):
        parse_geometry(strips)


def test_what_parts_of_an_area_cover_twice_is_no_hole_in_it() -> None:
    squares = [shapely.box(x, y, x + 1, y + 1) for x in range(20) for y in range(20)]
    for given in (shapely.MultiPolygon(squares), squares, shapely.MultiPolygon(squares).wkt):
        assert parse_geometry(given).equals(shapely.box(0, 0, 20, 20))
    two = [shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3)]
    assert parse_geometry(shapely.MultiPolygon(two)).area == 7
    random = np.random.default_rng(1).uniform(-50, 40, (300, 2))
    boxes = [shapely.box(x, y, x + 10, y + 10) for x, y in random]
    assert parse_geometry(boxes).symmetric_difference(shapely.union_all(boxes)).area < 1e-9
    # A bow tie, a spike and a point, all of which count.
    tie, spike = [(0, 0), (2, 2), (2, 0), (0, 2)], [(5, 0), (7, 0), (5, 0)]
    found = parse_geometry([shapely.Polygon(tie), shapely.Polygon(spike), shapely.Point(9, 9)])
    assert (found.area, found.length) == (2, pytest.approx(4 + 4 * 2**0.5 + 2))
    assert found.intersects(shapely.Point(9, 9))


def test_crossings_of_the_antimeridian_are_bounded() -> None:
    def comb(times: int) -> shapely.LineString:
        x = 180 + np.where(np.arange(times + 1) % 2, 1, -1)
        return shapely.LineString(np.column_stack([x, np.linspace(-60, 60, times + 1)]))

    assert StacQuery.parse(intersects=comb(MOST_PIECES)).intersects is not None
    refused(
        lambda: StacQuery.parse(intersects=comb(MOST_PIECES + 1)), str(MOST_PIECES + 1), MOST_PIECES
    )


def pieces(count: int) -> dict[str, Any]:
    spots = shapely.geometry.mapping(shapely.MultiPoint([(n / 10, 0) for n in range(count)]))
    return {"op": "s_within", "args": [spots, {"property": "geometry"}]}


def test_values_of_all_lists_together_are_bounded() -> None:
    ids = [f"S2A_{n}" for n in range(MOST_VALUES)]
    words = lambda names: f"id IN ({','.join(repr(name) for name in names)})"  # noqa: E731
    beyond = str(MOST_VALUES + 1)
    for ask in (
        lambda names: Query.parse(ids=names),
        lambda names: Query.parse(filter=words(names)),
        lambda names: Query.parse(filter={"op": "in", "args": [{"property": "id"}, names]}),
        lambda names: StacQuery.parse(ids=names),
        lambda names: Query.parse(ids=names[1:], collection="c1"),
        lambda names: Query.parse(ids=names[7:], filter=words(names[:7])),
    ):
        ask(ids)
        refused(lambda ask=ask: ask([*ids, "one more"]), beyond, MOST_VALUES)
    refused(lambda: Query.parse(ids=itertools.repeat("a")), f"more than {MOST_VALUES}", MOST_VALUES)
    refused(lambda: Query.parse(sort=itertools.repeat("id")), "more than 100", 100)
    with pytest.raises(UsageError, match="four finite numbers"):
        Query.parse(bbox=itertools.repeat(1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="four finite numbers"):
        Query.parse(bbox=[1.0] * 10**7)


LONG = [
    ("filter", "id='a'{}", LONGEST_TEXT), ("intersects", "POINT(0 0){}", LONGEST_TEXT),
    ("filter", "id = '{}'", 1000), ("filter", '"{}" = 1', 1000), ("datetime", "{}", 1000),
    ("sort", "{}", 1000),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "most"), LONG)
def test_texts_are_bounded(name: str, text: str, most: int) -> None:
    count = 2 * LONGEST_TEXT if most == LONGEST_TEXT else 10**7
    whole = text.format(" " * (count + 2 - len(text)) if most == LONGEST_TEXT else "x" * count)
    refused(lambda: Query.parse(**{name: whole}), str(count), most)
    assert memory_of(lambda: Query.parse(**{name: whole})) < 60e6


def test_conditions_of_a_filter_are_bounded() -> None:
    one = "eo:cloud_cover BETWEEN -1 AND 50"
    many = MOST_CONDITIONS - 1
    assert parse_filter(" AND ".join([one] * many))
    refused(
        lambda: parse_filter(" AND ".join([one] * (many + 1))),
        str(MOST_CONDITIONS + 1),
        MOST_CONDITIONS,
    )
    # Of numbers each is a comparison of its own.
    numbers = f"eo:cloud_cover IN ({','.join(map(str, range(many)))}"
    assert parse_filter(f"{numbers})")
    refused(lambda: parse_filter(f"{numbers},-1)"), str(MOST_CONDITIONS + 1), MOST_CONDITIONS)
    # Minus signs of coordinates are none.
    line = ", ".join(f"-{n / 1000} -45" for n in range(5_000))
    assert parse_filter(f"S_INTERSECTS(geometry, LINESTRING({line}))")
    everything = {"op": "and", "args": [True] * many}
    assert parse_filter(everything)
    everything["args"] = [True] * (many + 1)
    refused(lambda: parse_filter(everything), str(MOST_CONDITIONS + 1), MOST_CONDITIONS)
    assert parse_filter(pieces(MOST_PIECES))
    refused(lambda: parse_filter(pieces(MOST_PIECES + 1)), str(MOST_PIECES + 1), MOST_PIECES)


def test_depth_of_a_filter_is_bounded() -> None:
    def nots(levels: int) -> Any:
        document: Any = {"op": "isNull", "args": [{"property": "platform"}]}
        for _ in range(levels - 1):
            document = {"op": "not", "args": [document]}
        return document

    beyond = str(DEEPEST + 1)
    assert parse_filter("(" * DEEPEST + "id = 'a'" + ")" * DEEPEST)
    too_deep = "(" * (DEEPEST + 1) + "id = 'a'" + ")" * (DEEPEST + 1)
    refused(lambda: parse_filter(too_deep), beyond, DEEPEST)
    assert parse_filter("NOT " * (DEEPEST - 1) + "id = 'a'")
    refused(lambda: parse_filter("NOT " * (DEEPEST + 1) + "id = 'a'"), beyond, DEEPEST)
    assert parse_filter(nots(DEEPEST))
    refused(lambda: parse_filter(nots(DEEPEST + 1)), beyond, DEEPEST)


NESTED = [
    "({}) AND eo:cloud_cover < 5", "NOT ({})", "(NOT ({}) OR platform IN (('sentinel-2a'),'S2B'))",
    "id LIKE ('a%') OR ({})", "({} AND eo:cloud_cover BETWEEN (1) AND (2))",
    "(S_INTERSECTS(geometry, POLYGON((0 0, 1 -1, 1 1, 0 0))) AND ({}))",
    "(CASEI(id) = CASEI('A') OR {})",
    "datetime > TIMESTAMP('2023-01-01T00:00:00Z') AND ((({})))",
]  # fmt: skip


def flat(node: Any) -> Any:
    """AND within AND and OR within OR are what the library joins, where it sees both."""
    if isinstance(node, list):
        return [flat(child) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: flat(child) for key, child in node.items()}
    if node.get("op") in ("and", "or"):
        node["args"] = [
            inner
            for child in node["args"]
            for inner in (
                child["args"]
                if isinstance(child, dict) and child.get("op") == node["op"]
                else [child]
            )
        ]
    return node


@pytest.mark.parametrize("seed", range(20))
def test_a_filter_that_is_taken_apart_means_the_same(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "id = 'a(b' AND \"platform\" = 'it''s ((('"
    for place in np.random.default_rng(seed).integers(0, len(NESTED), 5):
        text = NESTED[place].format(text)
    whole = cql2.parse_text(text).to_json()
    monkeypatch.setattr(filter_bounds, "_SHALLOW", 0)
    assert flat(filter_bounds.document_of(text)) == flat(whole)


HOSTILE = {
    "open": "(" * 50 + "id=",
    "an error in many": "(" * 50 + "id=" + ")" * 50,
    "an error in ANDs": "(id = 'a' AND " * 50 + "id=" + ")" * 50,
    "lists in lists": "id IN (" * 50 + "'a'" + ")" * 50,
    "lists that are none": "(" * 50 + "1" + ",1)" * 50,
    "functions": "f(" * 50 + "id=" + ")" * 50,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_filter_with_an_error_deep_inside_is_refused_at_once(name: str) -> None:
    began = time.process_time()
    with pytest.raises(UsageError):
        parse_filter(HOSTILE[name])
    assert time.process_time() - began < 5


CRASHES = """
import itertools, json, struct, sys
import shapely
from catalog.area import parse_geometry as area
from catalog.errors import UsageError
from catalog.filter_cql2 import parse_filter as cql
from catalog.footprint import footprint
from catalog.query import Query

n = 100_000
def deep(make, last, times=n):
    for _ in range(times):
        last = make(last)
    return last
point = {"type": "Point", "coordinates": [0, 0]}
itself = []
itself.append(itself)
cases = {
    "wkt": lambda: area("GEOMETRYCOLLECTION(" * n + "POINT(0 0)" + ")" * n),
    "wkt that does not end": lambda: area("GEOMETRYCOLLECTION(" * n),
    "ewkt": lambda: area("SRID=4326;" + "GEOMETRYCOLLECTION(" * n + "POINT(0 0)" + ")" * n),
    "wkb": lambda: area(struct.pack("<BII", 1, 7, 1) * n + shapely.Point(0, 0).wkb),
    "wkb, big endian": lambda: area(struct.pack(">BII", 0, 7, 1) * n + shapely.Point(0, 0).wkb),
    "wkb of points": lambda: area(struct.pack("<BII", 1, 4, 1) * n + shapely.Point(0, 0).wkb),
    "ewkb": lambda: area(struct.pack("<BIII", 1, 7 | 0x20000000, 4326, 1) * n),
    "wkb, hex": lambda: area((struct.pack("<BII", 1, 1007, 1) * n).hex()),
    "wkb beside others": lambda: area(
        (struct.pack("<BII", 1, 7, 2) + shapely.Point(0, 0).wkb) * n
    ),
    "wkb of a curve": lambda: area(struct.pack("<BII", 1, 9, 1) * n),
    "geojson": lambda: area(
        '{"type":"GeometryCollection","geometries":[' * n + json.dumps(point) + "]}" * n
    ),
    "mapping": lambda: area(
        deep(lambda d: {"type": "GeometryCollection", "geometries": [d]}, point)
    ),
    "list": lambda: area(deep(lambda d: [d], point)),
    "a list in itself": lambda: area(itself),
    "coordinates in themselves": lambda: area({"type": "Polygon", "coordinates": itself}),
    "footprint": lambda: footprint({"type": "Polygon", "coordinates": deep(lambda d: [d], [0])}),
    "parentheses": lambda: cql("(" * n + "id='a'" + ")" * n),
    "not": lambda: cql("NOT " * n + "id='a'"),
    "not on lines": lambda: cql("not\\n" * n + "id='a'"),
    "minus": lambda: cql("eo:cloud_cover = " + "-" * n + "1"),
    "minus and blanks": lambda: cql("eo:cloud_cover = " + "- " * n + "1"),
    "and": lambda: cql(" AND ".join(["eo:cloud_cover = 1"] * n)),
    "or": lambda: cql(" or\\t".join(["id = 'a'"] * n)),
    **{
        f"sum by {sign}": lambda sign=sign: cql("eo:cloud_cover = " + sign.join(["1"] * n))
        for sign in ("+", " + ", "-", " -", "*", "/", "%", "^", " div ")
    },
    "sum of functions": lambda: cql("eo:cloud_cover = " + "-".join(["f(1,1)"] * n)),
    "sum in a shape": lambda: cql(f"S_INTERSECTS(geometry, POINT({' -'.join(['1'] * n)}))"),
    "sum of functions in a shape": lambda: cql(
        f"S_INTERSECTS(geometry, POINT({' -'.join(['f(1,1)'] * n)}))"
    ),
    "sum of parentheses in a shape": lambda: cql(
        f"S_INTERSECTS(geometry, POINT({'-'.join(['(1)'] * n)}))"
    ),
    "equals": lambda: cql("=".join(["id"] * n)),
    "less": lambda: cql("<=".join(["id"] * n)),
    "like": lambda: cql("id" + " LIKE 'a'" * n),
    "in": lambda: cql("id" + " IN ('a')" * n),
    "in in": lambda: cql("id IN (" * n),
    "is": lambda: cql("id" + " IS NULL" * n),
    "between": lambda: cql("id" + " BETWEEN 1 AND 2" * n),
    "arrays": lambda: cql("[" * n),
    "quotes": lambda: cql("'" * (n + 1)),
    "any functions": lambda: cql("a(" * n + "1" + ")" * n + " = 1"),
    "functions": lambda: cql("CASEI(" * n + "id" + ")" * n + " = 'a'"),
    "interval": lambda: cql("INTERVAL(" * n),
    "wkt in cql2": lambda: cql(f"S_INTERSECTS(geometry, {'GEOMETRYCOLLECTION(' * n}"),
    "json": lambda: cql(deep(lambda d: {"op": "not", "args": [d]}, True)),
    "json as text": lambda: cql('{"op":"not","args":[' * n + "true" + "]}" * n),
    "json in itself": lambda: cql({"op": "not", "args": itself}),
    "arguments without end": lambda: Query.parse(ids=itertools.count()),
}
for name, ask in cases.items():
    print(name, flush=True)
    try:
        ask()
    except ValueError as error:
        assert isinstance(error, UsageError) or name == "footprint", error
    else:
        raise SystemExit("it was answered")
print("all")
"""


def test_nothing_that_is_asked_ends_the_process() -> None:
    """The name printed last is that of the question that did."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHES],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=child_environment(),
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all"]), done.stderr[-1000:]


def test_a_footprint_is_bounded_too() -> None:
    random = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 9_999, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles)]).tolist()
    assert footprint({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
    with pytest.raises(ValueError, match="10001 positions, and 10000 is the most"):
        footprint({"type": "Polygon", "coordinates": [[*ring, ring[0], ring[0]]]})
    with pytest.raises(ValueError, match="1000000 positions, and 10000 is the most"):
        footprint({"type": "Polygon", "coordinates": [[[0, 0]] * 1_000_000]})
    # This one took minutes.
    began = time.process_time()
    with pytest.raises(ValueError, match="more than 10000 places, and 10000 is the most"):
        footprint({"type": "Polygon", "coordinates": [random.uniform(0, 1, (2000, 2)).tolist()]})
    assert time.process_time() - began < 10
    # Nor does the footprint of one row of a table end the process.
    with pytest.raises(ValueError, match="nested 100000 deep"):
        _geometry(struct.pack("<BII", 1, 7, 1) * 100_000 + shapely.Point(0, 0).wkb)


def test_options_of_the_command_line_are_bounded(tmp_path: Path) -> None:
    def said(*words: str) -> str:
        done = CliRunner().invoke(main, ["search", *words], catch_exceptions=False)
        assert done.exit_code == 2
        return " ".join(done.stderr.split())

    path = tmp_path / "area.wkt"
    path.write_text(circle(MOST_VERTICES + 1).wkt)
    assert "100001 vertices is too much: 100000 is the most" in said("--intersects", str(path))
    # Is read up to what may be read.
    assert "16000001 characters is too much: 16000000" in said("--intersects", "/dev/zero")
    assert "100001 values" in said("--ids", ",".join(["a"] * 100_001))


@pytest.fixture
def ask(engine: Engine) -> Iterator[Callable[..., list[str]]]:
    """Ids of a catalog of 300 scenes that answer."""
    _fill(engine, _rows(300), [])
    with read_transaction(engine) as connection:
        asker = Asker(connection, 1, TileBoxes())
        yield lambda **asked: [
            record.id for record in asker.records(Query.parse(status=None, sort="id", **asked))
        ]


def test_questions_at_the_limit_are_answered_by_both_databases(
    ask: Callable[..., list[str]],
) -> None:
    every = ask()
    assert len(every) == 300
    wanted = every[::7]
    others = [f"S2A_OF_ANOTHER_CATALOG_{n}" for n in range(MOST_VALUES - len(wanted))]
    assert ask(ids=[*others, *wanted]) == wanted
    listed = {"op": "in", "args": [{"property": "id"}, [*others, *wanted]]}
    assert ask(filter=listed) == wanted
    assert set(ask(filter={"op": "not", "args": [listed]})) == set(every) - set(wanted)
    assert ask(per_tile="latest", ids=[*others, *wanted]) != []
    clear = ask(filter="eo:cloud_cover BETWEEN -1 AND 50")
    for word in ("AND", "OR"):
        chain = f" {word} ".join(["eo:cloud_cover BETWEEN -1 AND 50"] * (MOST_CONDITIONS - 1))
        assert ask(filter=chain) == clear
    deep = "eo:cloud_cover BETWEEN -1 AND 50"
    for n in range(DEEPEST - 1):
        deep = f"({deep} {('AND', 'OR')[n % 2]} eo:cloud_cover < 51)"
    assert ask(filter=deep) == ask(filter="eo:cloud_cover < 51")
    assert ask(filter="NOT " * (DEEPEST - 2) + "eo:cloud_cover < 51") == ask(
        filter="eo:cloud_cover < 51"
    )
    numbers = ",".join(map(str, range(MOST_CONDITIONS - 1)))
    assert ask(filter=f"eo:cloud_cover IN ({numbers})") == ask(
        filter="eo:cloud_cover IN (0,10,100)"
    )
    near = ask(intersects=circle(MOST_VERTICES))
    assert near == ask(intersects=circle(1000))
    assert 0 < len(near) < 300
