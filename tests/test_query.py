"""Questions: every value's forms and faults, and every answer against brute force."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import FrozenInstanceError, fields
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from conftest import make_scene, postgres_database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from odc.geo.geom import Geometry
from shapely import box, wkb
from sqlalchemy import Engine

from catalog.answers import Asker, sort_values
from catalog.assets import read_assets
from catalog.database import migrate, open_engine, read_transaction, write_transaction
from catalog.errors import UsageError
from catalog.failures import record_failed
from catalog.models import TILES
from catalog.parse import parse_bbox, parse_datetime, parse_tile
from catalog.query import Query
from catalog.recorded import Commit, IndexedScene, SceneRecord
from catalog.records import record_indexed, record_pending
from catalog.registry import begin_crawl, register_collection, register_repository
from catalog.scene import Scene
from catalog.selection import shape_of, statement, values_of
from catalog.stac_query import StacQuery
from catalog.tile_boxes import TileBoxes

Statements = Callable[[Engine], AbstractContextManager[list[str]]]
START = datetime(2023, 1, 1, tzinfo=UTC)
LAST = timedelta(days=1) - timedelta(microseconds=1)
COLLECTIONS = ("sentinel-2-c1-l2a", "sentinel-2-l2a")
# West edges of tiles; the last lie over the antimeridian and near the pole.
PLACES = {"10TFR": -121.5, "31UDQ": 1.9, "01CCV": -180.6, "60KXF": 178.9, "33XVM": 9.0}


def _shape(tile: str, rng: random.Random) -> Any:
    """A whole square, a partial swath, or two pieces; over the antimeridian beyond 180."""
    west, wide = PLACES[tile], 12.0 if tile == "33XVM" else 1.4
    south = {"10TFR": 44.0, "31UDQ": 48.6, "01CCV": -79.0, "60KXF": -20.0, "33XVM": 82.5}[tile]
    west += rng.choice([0, 0, 0.3, -0.4])
    if west + wide < -180 or (west < -180 < west + wide):
        west += 360
    corners = [(west, south), (west + wide, south), (west + wide, south + 1), (west, south + 1)]
    kind = rng.randrange(3)
    if kind == 0:
        return shapely.Polygon(corners)
    if kind == 1:
        return shapely.Polygon(corners[:3])
    half = wide / 2 - 0.1
    return shapely.MultiPolygon(
        [box(west, south, west + half, south + 1), box(west + half + 0.2, south, *corners[2])]
    )


def _some_scenes(count: int, seed: int = 1) -> list[Scene]:
    rng = random.Random(seed)
    scenes = []
    for n in range(count):
        tile = rng.choice(list(PLACES))
        # Few moments and clouds, so that many scenes tie.
        moment = START + timedelta(days=rng.randrange(40), hours=rng.choice([0, 0, 12]))
        scenes.append(
            make_scene(
                f"S2_{rng.randrange(10**6):06d}_{n}",
                collection=rng.choice(COLLECTIONS),
                tile=tile,
                footprint=_shape(tile, rng),
                datetime=moment,
                platform=rng.choice(["sentinel-2a", "sentinel-2b", None]),
                baseline=rng.choice(["02.14", "05.10", None]),
                acquisition=rng.choice([None, *(f"{moment:%Y%m%d} {part}" for part in "ab")]),
                created=rng.choice([None, START, START + timedelta(days=n % 3)]),
                cloud_cover=rng.choice([None, 0.0, 10.0, 10.0, 55.5, 100.0]),
                updated=rng.choice([None, START, START + timedelta(days=n % 7)]),
            )
        )
    return scenes


def _fill(engine: Engine, scenes: list[Scene]) -> None:
    """Two thirds indexed, the rest pending or failed."""
    with write_transaction(engine) as connection:
        repository = register_repository(connection, "uid-1", "/repo")
        for name in COLLECTIONS:
            register_collection(connection, name)
        crawl = begin_crawl(connection, {})
        record_pending(connection, repository, scenes, crawl)
        for name in COLLECTIONS:
            mine = [scene for scene in scenes if scene.collection == name]
            places = [
                IndexedScene(scene, "", n, "ee" * 32, ()) for n, scene in enumerate(mine) if n % 3
            ]
            commit = Commit(f"{name}/all", name, "10TFR", 32610, f"snap-{name}", None, START)
            record_indexed(connection, repository, commit, places, crawl)
            record_failed(connection, repository, name, {s.id: "x" for s in mine[::6]}, crawl)


class Filled:
    """Not a dataclass: hypothesis would print every record of one."""

    def __init__(self, engine: Engine, records: list[SceneRecord]) -> None:
        self.engine, self.records = engine, records


def _ask(engine: Engine, query: Query) -> list[SceneRecord]:
    with read_transaction(engine) as connection:
        return Asker(connection, None, TileBoxes()).records(query)


def _count(engine: Engine, query: Query) -> int:
    with read_transaction(engine) as connection:
        return Asker(connection, None, TileBoxes()).count(query)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    def fill(url: str) -> Filled:
        engine = open_engine(url)
        migrate(engine)
        _fill(engine, _some_scenes(800))
        return Filled(engine, _ask(engine, Query.parse(status=None, sort="id")))

    if request.param == "sqlite":
        made = fill(f"sqlite:///{tmp_path_factory.mktemp('query') / 'cogcat.db'}")
        yield made
        made.engine.dispose()
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            made = fill(url)
            yield made
            made.engine.dispose()


def _touches(area: Any, footprint: bytes) -> bool:
    shape = wkb.loads(footprint)
    return any(
        shapely.intersects(shapely.transform(area, lambda xy, k=k: xy + np.array([k, 0])), shape)
        for k in (-720, -360, 0, 360, 720)
    )


def _supersedes(r: SceneRecord, other: SceneRecord) -> bool:
    def processed(r: SceneRecord) -> Any:
        return r.baseline or "", r.created or datetime.min.replace(tzinfo=UTC), r.id

    same = ("acquisition", "tile", "collection")
    return (
        other.status == "indexed"
        and all(getattr(r, name) == getattr(other, name) for name in same)
        and processed(other) > processed(r)
    )


def _brute(query: Query, records: list[SceneRecord]) -> list[SceneRecord]:
    """The question in plain Python."""

    def fits(r: SceneRecord) -> bool:
        for asked, value in (
            (query.ids, r.id),
            (query.collection, r.collection),
            (query.tile, r.tile),
            (query.platform, r.platform),
            (query.baseline, r.baseline),
            (query.status, r.status),
        ):
            if asked is not None and value not in asked:
                return False
        for ends, value in ((query.datetime, r.datetime), (query.cloud_cover, r.cloud_cover)):
            if ends is not None:
                low, high = ends
                if value is None or (low is not None and value < low):
                    return False
                if high is not None and value > high:
                    return False
        if query.newest and r.acquisition and any(map(partial(_supersedes, r), records)):
            return False
        return query.area is None or _touches(query.area, r.footprint)

    found = [r for r in records if fits(r)]
    found.sort(key=lambda r: r.pk, reverse=query.sort[-1][1])
    for key, down in reversed(query.sort):
        have = [r for r in found if getattr(r, key) is not None]
        have.sort(key=lambda r: getattr(r, key), reverse=down)
        found = have + [r for r in found if getattr(r, key) is None]
    return found[: query.limit]


_longitude = st.one_of(
    st.floats(-180, 180), st.sampled_from([-180.0, 180.0, -179.5, 179.5, 0.0, 2.0, -121.0, 10.0])
)
_latitude = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 44.0, -78.5, 83.0]))


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """Any box, or a small one beside a tile; west > east crosses the antimeridian."""
    if draw(st.booleans()):
        south, north = sorted([draw(_latitude), draw(_latitude)])
        return (draw(_longitude), south, draw(_longitude), north)
    tile = draw(st.sampled_from(sorted(PLACES)))
    shape = _shape(tile, random.Random(draw(st.integers(0, 50))))
    west, south, east, north = shapely.bounds(shape)
    west, east = sorted([draw(st.floats(west - 1, east + 1)), draw(st.floats(west - 1, east + 1))])
    south, north = sorted([draw(st.floats(south, north)), draw(st.floats(south, north))])
    west, east = ((x + 180) % 360 - 180 for x in (west, east))
    return (west, south, east, north)


@st.composite
def _areas(draw: st.DrawFn) -> Any:
    west, south, east, north = parse_bbox(draw(_boxes()))
    east += 360 if west > east else 0
    if east - west < 1e-6 or north - south < 1e-6:
        return shapely.Point(west, south)
    if 180 + 1e-6 < east < west + 359 and west < 180 - 1e-6 and draw(st.booleans()):
        # As GeoJSON has it: cut at the antimeridian.
        halves = [box(west, south, 180, north), box(-180, south, east - 360, north)]
        return shapely.MultiPolygon(halves)
    return shapely.Polygon([(west, south), (min(east, 360), south), (min(east, 360), north)])


SORTS = [
    *("datetime", "-datetime,cloud_cover", "cloud_cover", "-cloud_cover,-id", "id", "+id"),
    *("updated,-datetime", "-updated"),
]
_moments = st.integers(-2, 42).map(lambda n: START + timedelta(days=n))
_questions = st.fixed_dictionaries(
    {},
    optional={
        "collection": st.sampled_from([COLLECTIONS[0], list(COLLECTIONS), "other"]),
        "tile": st.lists(st.sampled_from([*PLACES, "60CWS"]), max_size=3),
        "datetime": st.one_of(
            st.sampled_from(["2023", "2023-01", "2023-01-05", "../2023-01-20", "2023-02/.."]),
            st.tuples(_moments, _moments).map(lambda ends: tuple(sorted(ends))),
        ),
        "max_cloud_cover": st.sampled_from([0, 10, 10.0, 55, 100]),
        "cloud_cover": st.sampled_from([(None, 50), (0, None), (0, 100)]),
        "platform": st.sampled_from(["S2A", ["sentinel-2a", "Sentinel-2B"]]),
        "baseline": st.sampled_from(["05.10", "N0214"]),
        "status": st.sampled_from([None, "any", "pending", ["failed", "indexed"]]),
        "newest": st.booleans(),
        "sort": st.sampled_from(SORTS),
        "limit": st.integers(1, 900),
    },
)
_places = st.one_of(
    st.just({}), _boxes().map(lambda b: {"bbox": b}), _areas().map(lambda a: {"intersects": a})
)
_brief = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_brief
@given(question=_questions, place=_places)
@example(question={}, place={"bbox": (179.0, -85, -179.0, -70)})
@example(question={}, place={"bbox": (-180, -90, 180, 90)})
@example(question={"status": None}, place={"bbox": (-180.0, -78.5, -179.7, -78.5)})
def test_every_answer_is_the_brute_force_one(
    filled: Filled, question: dict[str, Any], place: dict[str, Any]
) -> None:
    query = Query.parse(**question, **place)
    expected = _brute(query, filled.records)
    found = _ask(filled.engine, query)
    assert [r.pk for r in found] == [r.pk for r in expected]
    assert found == expected
    assert _count(filled.engine, query) == len(expected)


@_brief
@given(question=_questions, place=_places, size=st.integers(60, 400))
def test_pages_neither_skip_nor_repeat(
    filled: Filled, question: dict[str, Any], place: dict[str, Any], size: int
) -> None:
    question = question | {"limit": None}
    expected = _brute(Query.parse(**question, **place), filled.records)
    query = Query.parse(**question | {"limit": size}, **place)
    found: list[SceneRecord] = []
    with read_transaction(filled.engine) as connection:
        asker = Asker(connection, None, TileBoxes())
        while True:
            after = sort_values(query, found[-1]) if found else None
            page = asker.records(query, after=after)
            if not page:
                break
            found += page
    assert [r.pk for r in found] == [r.pk for r in expected]


def test_ids_one_and_thousands(filled: Filled) -> None:
    ids = [record.id for record in filled.records]
    (found,) = _ask(filled.engine, Query.parse(ids=ids[5], status=None))
    assert found == filled.records[5]
    many = [*ids, *(f"no-{n}" for n in range(40_000))]
    query = Query.parse(ids=many, status=None, sort="id")
    assert _ask(filled.engine, query) == filled.records
    assert _ask(filled.engine, Query.parse(ids=[])) == []


def test_statements_a_question(filled: Filled, statements: Statements) -> None:
    world: dict[str, Any] = {"bbox": (-180, -90, 180, 90), "status": None}
    corner = {"intersects": "POINT (-120.15 44.9)"}
    cql = "S_INTERSECTS(geometry, BBOX(0, 0, 50, 90)) OR NOT eo:cloud_cover < 50"
    with read_transaction(filled.engine) as connection:
        asker = Asker(connection, None, TileBoxes())
        asker.records(Query.parse(**world))

        def cost(question: dict[str, Any], *, count: bool = False) -> int:
            query = Query.parse(**question)
            with statements(filled.engine) as seen:
                asker.count(query) if count else asker.records(query)
            return len(seen)

        assert cost({"datetime": "2023", "max_cloud_cover": 50, "ids": ["a", "b"]}) == 1
        assert cost({"datetime": "2023"}, count=True) == 1
        assert cost({"filter": "eo:cloud_cover < 50 OR platform IS NULL", "newest": True}) == 1
        assert cost({"per_tile": "latest"}) == 1
        # What had the last place in the order of records then? And then the question.
        assert cost({"as_of": START}) == 2
        # Has the table of tiles changed? And then the question.
        assert cost(world) == 2
        assert cost(world, count=True) == 2
        assert cost({"filter": cql}) == 2
        assert cost(world | {"limit": 10}) == 2
        # Too many of the first rows do not touch the place; a tile's best does not.
        assert cost(corner | {"limit": 3, "status": None}) <= 3
        assert cost(corner | {"per_tile": "latest", "status": None}) <= 3
        records = asker.records(Query.parse(**world))
        with statements(filled.engine) as seen:
            assert read_assets(connection, [record.pk for record in records]) == {}
        assert len(records) > 100
        assert len(seen) == 1


def test_tiles_of_the_antimeridian_have_narrow_boxes(filled: Filled) -> None:
    with read_transaction(filled.engine) as connection:
        for _, west, _, east, _ in connection.execute(TILES.select()):
            assert 0 < east - west < 20


@pytest.mark.parametrize(
    ("question", "index"),
    [
        (
            {"tile": ["10TFR", "31UDQ"], "datetime": "2023-01"},
            "ix_scenes_tile_datetime (tile=? AND",
        ),
        ({"tile": "10TFR", "datetime": "2023-01"}, "ix_scenes_tile_datetime (tile=? AND datetime>"),
        ({"bbox": (-121, 44, -120, 45), "datetime": "2023-01"}, "ix_scenes_tile_datetime (tile=?"),
        ({"datetime": "2023-01-05", "limit": 10}, "ix_scenes_datetime (datetime>"),
        ({"ids": ["a", "b"]}, "item_id=?"),
        ({"limit": 10}, "SCAN scenes USING INDEX ix_scenes_datetime"),
    ],
)
def test_sqlite_uses_the_index(filled: Filled, question: dict[str, Any], index: str) -> None:
    if filled.engine.dialect.name != "sqlite":
        pytest.skip("EXPLAIN QUERY PLAN is SQLite's")
    query = Query.parse(**question)
    with read_transaction(filled.engine) as connection:
        asker = Asker(connection, None, TileBoxes())
        places = asker._places(query)
        shape = shape_of(query, places, repository=False, limited=query.limit is not None)
        given = values_of(query, places, repository_id=None, limit=query.limit)
        text = statement(shape).compile(connection, compile_kwargs={"render_postcompile": True})
        values = tuple(text.construct_params(given)[name] for name in text.positiontup or ())
        bind = text._bind_processors
        values = tuple(
            bind[name](value) if name in bind else value
            for name, value in zip(text.positiontup or (), values, strict=True)
        )
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
        steps = "\n".join(row[3] for row in plan)
    assert index in steps, steps
    assert "SCAN scenes\n" not in steps + "\n", steps


@pytest.mark.parametrize(
    ("given_", "start", "end"),
    [
        ("2023", START, datetime(2023, 12, 31, tzinfo=UTC) + LAST),
        ("2024-02", datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC) + LAST),
        ("2023-01-01", START, START + LAST),
        ("9999", datetime(9999, 1, 1, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
        ("2023-01-01T00:00:00Z", START, START),
        (
            "2023-01-01t01:00:00.5+01:00",
            START.replace(microsecond=500000),
            START.replace(microsecond=500000),
        ),
        ("2023/2024-02", START, datetime(2024, 2, 29, tzinfo=UTC) + LAST),
        ("../2023-01-01", None, START + LAST),
        ("2023/..", START, None),
        ("2023-01-01/", START, None),
        (date(2023, 1, 1), START, START + LAST),
        (START.astimezone(timezone(timedelta(hours=3))), START, START),
        ((START.replace(tzinfo=None), None), START, None),
        ([None, "2023-01-01"], None, START + LAST),
    ],
)
def test_datetimes(given_: Any, start: datetime | None, end: datetime | None) -> None:
    assert parse_datetime(given_) == (start, end)


@pytest.mark.parametrize(
    "bad",
    [
        *("", "..", "../..", "yesterday", "20231223", "0000", "2023-13", "2023-02-30", "2023-1-1"),
        *("2023/2022", "2023/2024/2025", "2023-01-01T25:00:00Z", "2023-01-01T10:00"),
        *(2023, [], (None, None)),
    ],
)
def test_bad_datetimes(bad: Any) -> None:
    with pytest.raises(UsageError, match="datetime"):
        Query.parse(datetime=bad)


@pytest.mark.parametrize(
    ("given_", "name"),
    [("10TFR", "10TFR"), ("t10tfr", "10TFR"), ("1CCV", "01CCV"), (" T01CCV ", "01CCV")],
)
def test_tiles(given_: str, name: str) -> None:
    assert parse_tile(given_) == name


@pytest.mark.parametrize("bad", ["", "10", "61TFR", "00TFR", "10IFR", "10TFRX", "10TFW", "TFR", 10])
def test_bad_tiles(bad: Any) -> None:
    with pytest.raises(UsageError, match="tile"):
        Query.parse(tile=[bad])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"bbox": (1, 2, 3)}, "four"),
        ({"bbox": (1, 2, 3, "x")}, "four"),
        ({"bbox": (1, 2, 3, float("nan"))}, "finite"),
        ({"bbox": (0, 10, 1, 5)}, "south lies above north"),
        ({"bbox": (0, -91, 1, 5)}, "latitudes"),
        ({"bbox": (-400, 0, 1, 5)}, "longitudes"),
        ({"bbox": (0, 0, 1, 1), "intersects": box(0, 0, 1, 1)}, "not both"),
        ({"intersects": "POLYGON EMPTY"}, "empty"),
        ({"intersects": "nonsense"}, "GeoJSON"),
        ({"intersects": {"type": "Polygon"}}, "GeoJSON"),
        ({"intersects": 5}, "GeoJSON"),
        ({"intersects": box(500000, 4900000, 600000, 5000000)}, "degrees"),
        ({"max_cloud_cover": 101}, "percentage"),
        ({"max_cloud_cover": float("nan")}, "percentage"),
        ({"max_cloud_cover": "10"}, "percentage"),
        ({"cloud_cover": (10,)}, "two ends"),
        ({"cloud_cover": (50, 10)}, "no range"),
        ({"platform": "landsat-8"}, "platform"),
        ({"baseline": "new"}, "baseline"),
        ({"status": "gone"}, "known are pending, indexed, failed, withdrawn"),
        ({"sort": "colour"}, "known are datetime"),
        ({"sort": []}, "no key"),
        ({"sort": [{"field": "datetime", "direction": "up"}]}, "is unknown"),
        ({"sort": 5}, "is unknown"),
        ({"as_of": pd.NaT}, "malformed as_of"),
        ({"as_of": "2023/2024"}, "malformed as_of"),
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"ids": 5}, "malformed item id 5"),
        ({"ids": [""]}, "malformed item id"),
    ],
)
def test_bad_questions(question: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Query.parse(**question)
    assert "\n" not in str(caught.value)


def test_forms_of_a_place() -> None:
    shape = box(1, 2, 3, 4)
    document = json.loads(shapely.to_geojson(shape))
    feature = {"type": "Feature", "properties": {}, "geometry": document}
    forms = [shape, shape.wkt, document, json.dumps(document), feature]
    forms.append({"type": "FeatureCollection", "features": [feature]})
    forms += [shape.wkb, shape.wkb_hex, json.dumps(document).encode(), f"srid=4326;{shape.wkt}"]
    forms += [[shape, document], shapely.set_srid(shape, 4326)]
    for form in forms:
        area = Query.parse(intersects=form).area
        assert area is not None
        assert area.equals(shape)
    assert Query.parse(bbox="1,2,3,4").area.equals(shape)  # type: ignore[union-attr]
    assert Query.parse(bbox=(1, 2, 0, 3, 4, 9)).bbox == (1, 2, 3, 4)
    assert Query.parse(bbox=(179, 0, -179, 1)).bbox == (179, 0, -179, 1)
    assert Query.parse(bbox=(179, 0, -179, 1)).area.bounds == (179, 0, 181, 1)  # type: ignore[union-attr]
    bow_tie = Query.parse(intersects="POLYGON((0 0, 1 1, 0 1, 1 0, 0 0))").area
    assert bow_tie is not None
    assert bow_tie.is_valid
    assert bow_tie.area == 0.5


def test_a_place_in_another_crs_is_brought_to_degrees() -> None:
    """A buffer in metres around a site, as fieldwork has it: its numbers would pass for degrees."""
    site = geopandas.GeoSeries([shapely.Point(-121.69, 46.035)], crs="EPSG:4326")
    plot = site.to_crs("+proj=aeqd +lat_0=46.035 +lon_0=-121.69 +units=m").buffer(50)
    for given_ in (plot, plot.to_frame("geometry"), Geometry(plot.iloc[0], str(plot.crs))):
        area = Query.parse(intersects=given_).area
        assert area is not None
        assert area.bounds == pytest.approx((-121.69064, 46.03455, -121.68935, 46.03545), abs=1e-5)
    with pytest.raises(UsageError, match="SRID is 32610"):
        Query.parse(intersects=f"SRID=32610;{shapely.box(60, 50, 61, 51).wkt}")


def test_what_is_asked_is_said_shortly() -> None:
    assert str(Query.parse()) == "all scenes"
    asked = Query.parse(tile="10TFR", datetime="2023/..", filter="eo:cloud_cover < 5", limit=3)
    assert str(asked) == (
        "tile=10TFR, datetime='2023-01-01T00:00:00Z/..', filter='eo:cloud_cover < 5', limit=3"
    )
    assert str(Query.parse(ids=list("abcde"))) == "ids=a,b,c and 2 more"


@pytest.mark.parametrize(
    ("given_", "keys"),
    [
        ("-properties.datetime", (("datetime", True),)),
        ("+eo:cloud_cover,id", (("cloud_cover", False), ("id", False))),
        ([{"field": "properties.datetime", "direction": "desc"}], (("datetime", True),)),
        ({"field": "updated"}, (("updated", False),)),
    ],
)
def test_what_to_sort_by_as_stac_has_it(given_: Any, keys: Any) -> None:
    assert Query.parse(sort=given_).sort == keys


@pytest.mark.parametrize(
    "question",
    [
        *({"bbox": box} for box in ("1,2,3,4", [170, 0, 190, 5], (0, 0, 360, 5), (9, 0, -9, 0))),
        *({"bbox": box} for box in (5, "1,2,3", (0, 5, 0, 4), (True, 0, 1, 1), (-400, 0, 0, 1))),
        {"intersects": {"type": "Point", "coordinates": [0, 95]}},
        {"intersects": "nonsense"},
        *({"max_cloud_cover": percent} for percent in (0, 12.5, 100, -1, 101, True, "10")),
        *({"limit": limit} for limit in (1, 10, 0, -1, 1.5, True, "5")),
        *({"ids": ids} for ids in ("a", ["a", "b", "a"], " a ", "", [""], 5, [5])),
        *({"tile": tile} for tile in ("t1ccv", ["10TFR", "T10TFR"], "10TZR", 10, [None])),
        *({"datetime": when} for when in ("2023", "2023/..", "../..", "2023-13", "2024/2023")),
        *({"collection": name} for name in ("a", " a ", "", 5)),
    ],
)
def test_a_crawl_and_a_search_understand_alike(question: dict[str, Any]) -> None:
    def outcome(parse: Any, question: dict[str, Any]) -> Any:
        try:
            return parse(**question)
        except UsageError as error:
            return str(error)

    searched = outcome(Query.parse, question)
    names = {"tile": "tiles"}
    crawled = outcome(StacQuery.parse, {names.get(k, k): v for k, v in question.items()})
    if isinstance(searched, str):
        assert crawled == searched
        return
    assert crawled.bbox == searched.bbox
    assert crawled.limit == searched.limit
    assert crawled.ids == (searched.ids or ())
    assert crawled.tiles == (searched.tile or ())
    assert crawled.max_cloud_cover == (searched.cloud_cover or (None, None))[1]
    assert crawled.collection == (searched.collection or (None,))[0]
    assert parse_datetime(crawled.datetime) == (searched.datetime or (None, None))


def test_a_record_is_as_if_it_were_made_in_the_plain_way(filled: Filled) -> None:
    found = filled.records[0]
    made = SceneRecord(*(getattr(found, field.name) for field in fields(SceneRecord)))
    assert type(found) is SceneRecord
    assert (found, hash(found), repr(found)) == (made, hash(made), repr(made))
    assert pickle.loads(pickle.dumps(found)) == made
    with pytest.raises(FrozenInstanceError):
        found.id = "another"  # type: ignore[misc]
