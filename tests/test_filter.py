"""CQL2, earlier states and one scene of each tile, against brute force on both databases."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import cql2
import numpy as np
import pytest
import shapely
from conftest import postgres_database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert

from catalog.answers import Asker, in_order
from catalog.database import migrate, open_engine, read_transaction, write_transaction
from catalog.errors import CatalogError, NotFoundError, UsageError
from catalog.filter_cql2 import parse_filter
from catalog.models import (
    BRANCHES,
    COLLECTIONS,
    REPOSITORIES,
    SCENE_REVISIONS,
    SCENES,
    SNAPSHOTS,
    STATE_COLUMNS,
    TILES,
)
from catalog.parse import parse_datetime
from catalog.query import PER_TILE, Query
from catalog.recorded import SceneRecord
from catalog.tile_boxes import TileBoxes
from catalog.tiles import tile_box

START = datetime(2023, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SCENES_THERE = int(os.environ.get("COGCAT_SEARCH_SCENES", "10000"))
EXAMPLES = int(os.environ.get("COGCAT_SEARCH_EXAMPLES", "30"))
# Over the antimeridian, near the pole, and elsewhere.
PLACES = {
    "10TFR": (-121.5, 44.0), "10TGR": (-120.3, 44.0), "31UDQ": (1.9, 48.6),
    "01CCV": (-180.6, -79.0), "60KXF": (178.9, -20.0), "33XVM": (9.0, 82.5),
}  # fmt: skip
Row = dict[str, Any]


def _rows(count: int) -> list[Row]:
    """States of scenes: ties of time and cloud, NULLs, partial swaths."""
    rng = random.Random(4)
    shapes: dict[tuple[str, int], tuple[bytes, Any]] = {}
    for tile, (west, south) in PLACES.items():
        wide = 12.0 if tile == "33XVM" else 1.4
        west += 360 if west < -180 and west + wide < -180 else 0
        for kind in range(6):
            edge = west + wide * (kind / 8)
            shift = 360 if edge < -180 else 0
            corners = [(edge + shift, south), (west + wide + shift, south),
                       (west + wide + shift, south + 1), (edge + shift, south + 1)]  # fmt: skip
            shape = shapely.Polygon(corners if kind % 2 else corners[:3])
            shapes[tile, kind] = shapely.to_wkb(shape), shape.bounds
    rows = []
    for n in range(1, count + 1):
        tile = rng.choice(list(PLACES))
        footprint, box = shapes[tile, rng.randrange(6)]
        moment = START + rng.randrange(60) * DAY + timedelta(hours=rng.choice([0, 0, 12]))
        status = rng.choice(["indexed", "indexed", "indexed", "withdrawn", "pending"])
        placed = status != "pending"
        rows.append(
            {
                "id": n, "repository_id": 1, "collection_id": rng.choice([1, 2]),
                "item_id": f"S2{rng.choice('aAB')}_{tile}_{rng.randrange(999):03}%_{n}",
                "tile": tile, "epsg": 32600 + int(tile[:2]), "href_prefix": "", "attempts": 0,
                "revision": int(placed), "status": status, "datetime": moment,
                "platform": rng.choice(["sentinel-2a", "sentinel-2b", "sentinel-2c", None]),
                "cloud_cover": rng.choice([None, 0.0, 10.0, 10.0, 55.5, 100.0]),
                "baseline": rng.choice(["02.14", "05.10", None]),
                "acquisition": rng.choice([None, f"{moment:%j} {tile}"]),
                "footprint": footprint, "minx": box[0], "miny": box[1], "maxx": box[2],
                "maxy": box[3], "created": rng.choice([None, START, START + DAY]),
                "updated": rng.choice([None, START, START + rng.randrange(7) * DAY]),
                "boa_offset": rng.choice([0, -1000]), "boa_evidence": "x", "warnings": [],
                "missing": None, "bands": None, "item_sha256": "aa" * 32,
                "branch_id": 1 if placed else None,
                "root": "" if placed else None, "time_index": n if placed else None,
                "snapshot_id": "S" * 20 if placed else None,
                "refs_sha256": "bb" * 32 if placed else None,
                "recorded_at": START + n // 32 * timedelta(hours=1), "crawl_id": None,
            }
        )  # fmt: skip
    return rows


def _revisions(rows: list[Row]) -> list[Row]:
    """Of one scene in five an earlier state, of some of these one before that."""
    rng = random.Random(5)
    found = []
    for row in rows:
        if not row["revision"] or rng.random() > 0.2:
            continue
        ends = sorted(START - rng.randrange(1, 400) * DAY for _ in range(rng.choice([1, 2])))
        row["revision"] = len(ends) + 1
        for revision, (begin, end) in enumerate(
            zip(ends, [*ends[1:], row["recorded_at"]], strict=True), 1
        ):
            state = {name: row[name] for name in STATE_COLUMNS if name != "sequence"}
            state |= {"cloud_cover": rng.choice([None, 5.0]), "status": "indexed",
                      "recorded_at": begin, "revision": revision}  # fmt: skip
            found.append(state | {"scene_id": row["id"], "assets": [], "replaced_at": end})
    return found


def _fill(engine: Engine, rows: list[Row], revisions: list[Row]) -> None:
    boxes: dict[str, list[tuple[float, ...]]] = {}
    for row in rows:
        box = tile_box(row["tile"], (row["minx"], row["miny"], row["maxx"], row["maxy"]))
        boxes.setdefault(row["tile"], []).append(box)
    with write_transaction(engine) as connection:
        connection.execute(insert(REPOSITORIES), [{"uid": "u", "location": "/repo",
                           "registered_at": START, "seen_at": START}])  # fmt: skip
        for name in ("c1", "c2"):
            connection.execute(insert(COLLECTIONS), [{"name": name, "registered_at": START}])
        connection.execute(insert(BRANCHES), [{"repository_id": 1, "collection_id": 1,
            "tile": "10TFR", "name": "c1/x", "epsg": 1, "head_snapshot": "S" * 20,
            "updated_at": START}])  # fmt: skip
        connection.execute(insert(SNAPSHOTS), [{"id": "S" * 20, "branch_id": 1,
                           "written_at": START, "scenes": 1}])  # fmt: skip
        connection.execute(insert(SCENES), rows)
        if revisions:
            connection.execute(insert(SCENE_REVISIONS), revisions)
        connection.execute(
            insert(TILES),
            [
                {"tile": tile, "minx": min(b[0] for b in of), "miny": min(b[1] for b in of),
                 "maxx": max(b[2] for b in of), "maxy": max(b[3] for b in of)}
                for tile, of in boxes.items()
            ],
        )  # fmt: skip


class Filled:
    """Not a dataclass: hypothesis would print every record of one."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.tiles = engine, TileBoxes()
        self.rows = _rows(SCENES_THERE)
        self.revisions = _revisions(self.rows)
        _fill(engine, self.rows, self.revisions)
        self.records = self.ask(Query.parse(status=None, sort="id"))
        self.shapes = {r.footprint: shapely.from_wkb(r.footprint) for r in self.records}
        self.past: dict[int, list[Row]] = {}
        for revision in self.revisions:
            self.past.setdefault(revision["scene_id"], []).append(revision)

    def ask(self, query: Query, **more: Any) -> list[SceneRecord]:
        with read_transaction(self.engine) as connection:
            return Asker(connection, 1, self.tiles).records(query, **more)

    def count(self, query: Query) -> int:
        with read_transaction(self.engine) as connection:
            return Asker(connection, 1, self.tiles).count(query)

    def then(self, moment: datetime) -> list[SceneRecord]:
        """Every scene as it was, in plain Python."""
        found = []
        for record in self.records:
            if record.recorded_at <= moment:
                found.append(record)
            for state in self.past.get(record.pk, ()):
                if state["recorded_at"] <= moment < state["replaced_at"]:
                    found.append(_with(record, **{
                        name: state[name]
                        for name in ("cloud_cover", "status", "recorded_at", "revision")
                    }))  # fmt: skip
        return found


def _with(record: SceneRecord, **changes: Any) -> SceneRecord:
    from dataclasses import replace

    return replace(record, **changes)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Filled]:
    def fill(url: str) -> Iterator[Filled]:
        engine = open_engine(url)
        migrate(engine)
        yield Filled(engine)
        engine.dispose()

    if request.param == "sqlite":
        yield from fill(f"sqlite:///{tmp_path_factory.mktemp('filter') / 'cogcat.db'}")
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield from fill(url)


# An evaluator of its own, over the JSON that the library gives: None is unknown.

_NAMES = {
    "eo:cloud_cover": lambda r: r.cloud_cover,
    "properties.cloud_cover": lambda r: r.cloud_cover,
    "platform": lambda r: r.platform,
    "constellation": lambda r: "sentinel-2",
    "s2:processing_baseline": lambda r: r.baseline,
    "s2:mgrs_tile": lambda r: r.tile,
    "grid:code": lambda r: f"MGRS-{r.tile}",
    "mgrs:utm_zone": lambda r: float(r.tile[:2]),
    "mgrs:latitude_band": lambda r: r.tile[2],
    "proj:code": lambda r: f"EPSG:{r.epsg}",
    "proj:epsg": lambda r: float(r.epsg),
    "id": lambda r: r.id,
    "collection": lambda r: r.collection,
    "status": lambda r: r.status,
    "datetime": lambda r: r.datetime,
    "created": lambda r: r.created,
    "updated": lambda r: r.updated,
    "boa_offset": lambda r: float(r.boa_offset),
}  # fmt: skip


def _small(text: str | None) -> str | None:
    return None if text is None else "".join(c.lower() if "A" <= c <= "Z" else c for c in text)


def _value(node: Any, r: SceneRecord) -> Any:
    if isinstance(node, dict):
        if "property" in node:
            return _NAMES[node["property"]](r)
        if node.get("op") == "casei":
            return _small(_value(node["args"][0], r))
        return parse_datetime(node.get("date", node.get("timestamp")))
    return node


def _kept(name: Any, literal: Any) -> Any:
    """A literal as the catalog writes such values; the evaluator's own rule."""
    if name == {"property": "platform"} and re.fullmatch("(?i)sentinel-2[a-d]|s2[a-d]", literal):
        return f"sentinel-2{literal[-1].lower()}"
    if name == {"property": "s2:processing_baseline"} and re.fullmatch("N?[0-9]{4}", literal):
        return f"{literal[-4:-2]}.{literal[-2:]}"
    return literal


def _compare(op: str, a: Any, b: Any) -> bool | None:
    if a is None or b is None:
        return None
    if isinstance(a, datetime) and isinstance(b, str):
        b = parse_datetime(b)
    if isinstance(b, tuple):
        low, high = b
        return {"=": low <= a <= high, "<>": not low <= a <= high, "<": a < low, "<=": a <= high,
                ">": a > high, ">=": a >= low}[op]  # fmt: skip
    return {"=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]


_asked: dict[tuple[str, str, int], bool] = {}


def _touching(area: Any, shape: Any) -> bool:
    key = ("area", area.wkb_hex, id(shape))
    if key not in _asked:
        _asked[key] = any(bool(shapely.intersects(copy, shape)) for copy in _copies(area))
    return _asked[key]


def _copies(area: Any) -> list[Any]:
    return [shapely.transform(area, lambda xy, k=k: xy + np.array([k, 0])) for k in (-360, 0, 360)]


def _spatially(op: str, given_: Any, shape: Any) -> bool:
    area = shapely.geometry.shape(given_) if "type" in given_ else shapely.box(*given_["bbox"])
    copies = _copies(area)
    if op == "s_within":
        return bool(shapely.within(shape, shapely.union_all(copies)))
    if op == "s_contains":
        return any(bool(shapely.contains(shape, copy)) for copy in copies)
    touches = any(bool(shapely.intersects(copy, shape)) for copy in copies)
    return touches if op == "s_intersects" else not touches


def _evaluate(node: Any, r: SceneRecord, shape: Any) -> bool | None:
    if isinstance(node, bool):
        return node
    op, args = node["op"], node["args"]
    if op in ("and", "or"):
        parts = [_evaluate(part, r, shape) for part in args]
        if (op == "or") in parts:
            return op == "or"
        return None if None in parts else op == "and"
    if op == "not":
        inner = _evaluate(args[0], r, shape)
        return None if inner is None else not inner
    if op == "isNull":
        return _value(args[0], r) is None
    if op == "between":
        return _evaluate({"op": "and", "args": [{"op": ">=", "args": args[:2]},
                         {"op": "<=", "args": [args[0], args[2]]}]}, r, shape)  # fmt: skip
    if op == "in":
        here = _value(args[0], r)
        return None if here is None else here in [_kept(args[0], value) for value in args[1]]
    if op == "like":
        text = _value(args[0], r)
        regex = re.sub(r"\\(.)|(%)|(_)|(.)", lambda m: ".*" if m[2] else "." if m[3]
                       else re.escape(m[1] or m[4]), args[1])  # fmt: skip
        return None if text is None else re.fullmatch(regex, text, re.DOTALL) is not None
    if op.startswith("t_"):
        moment = _value(args[0], r)
        ends = [None if e == ".." else parse_datetime(e) for e in args[1]["interval"]]
        low, high = ends[0] and ends[0][0], ends[1] and ends[1][1]
        if moment is None:
            return None
        early, late = bool(low and moment < low), bool(high and moment > high)
        if op == "t_during":
            return not (early or late or moment in (low, high))
        return {"t_after": late, "t_before": early, "t_intersects": not (early or late),
                "t_disjoint": early or late}[op]  # fmt: skip
    if op.startswith("s_"):
        # One of few footprints, each kept alive by the fixture.
        key = (op, json.dumps(args[1]), id(shape))
        if key not in _asked:
            _asked[key] = _spatially(op, args[1], shape)
        return _asked[key]
    right = _value(args[1], r)
    if op in ("=", "<>"):
        right = _kept(args[0], right)
    return _compare(op, _value(args[0], r), right)


_days = st.integers(-3, 63).map(lambda n: f"{START + n * DAY:%Y-%m-%d}")
_moments = st.one_of(_days.map(lambda d: f"DATE('{d}')"), _days.map(lambda d: f"'{d}'"),
                     _days.map(lambda d: f"TIMESTAMP('{d}T12:00:00Z')"))  # fmt: skip
_ops = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
_boxes = st.sampled_from(
    ["-121.0,44.2,-120.1,44.6", "1,48,4,50", "-180,-90,180,90", "178,-21,180,-18", "9,82,30,84",
     "-180,-80,-179.5,-78", "-130,40,-110,50", "50,50,51,51"]
).map(lambda b: f"BBOX({b})")  # fmt: skip
_geometries = st.one_of(
    _boxes,
    st.sampled_from(["POINT(-120.4 44.7)", "POINT(-179.6 -78.4)",
                     "POLYGON((-121 44, -119 45, -121 45, -121 44))",
                     "MULTIPOLYGON(((178 -30, 180 -30, 180 -10, 178 -10, 178 -30)),"
                     "((-180 -30, -178 -30, -178 -10, -180 -10, -180 -30)))"]),
)  # fmt: skip
_plain = st.one_of(
    st.tuples(st.sampled_from(["eo:cloud_cover", "properties.cloud_cover"]), _ops,
              st.sampled_from(["0", "10", "55.5", "60"])).map(" ".join),
    st.tuples(st.sampled_from(["boa_offset = -1000", "10 > eo:cloud_cover", "proj:epsg <> 32610",
                               "mgrs:utm_zone BETWEEN 1 AND 31", "mgrs:latitude_band = 'T'",
                               "eo:cloud_cover IN (0, 55.5)", "updated > created"])).map(" ".join),
    st.tuples(st.sampled_from(["platform", "s2:processing_baseline", "id", "collection", "status"]),
              _ops, st.sampled_from(["'sentinel-2a'", "'05.10'", "'S2A'", "'c1'", "'indexed'",
                                     "'Sentinel-2C'"])).map(" ".join),
    st.tuples(st.sampled_from(["platform IN ('sentinel-2a', 'x')",
                               "s2:mgrs_tile IN ('01CCV','10TFR')",
                               "grid:code = 'MGRS-10TGR'", "grid:code LIKE 'MGRS-_0T%'",
                               "proj:code = 'EPSG:32631'", "TRUE", "FALSE", "1 = 1",
                               "CASEI(platform) = CASEI('SENTINEL-2c')"])).map(" ".join),
    st.tuples(st.sampled_from(["id", "platform"]), st.just("LIKE"),
              st.sampled_from(["'S2A%'", "'s2a%'", r"'%\%%'", "'%[%'", "'S2_\\_10%'", "'%2%b'",
                               "'*'", "'%'"])).map(" ".join),
    st.sampled_from(["platform", "updated", "eo:cloud_cover", "id"]).map(lambda p: f"{p} IS NULL"),
    st.tuples(st.sampled_from(["datetime", "created", "updated"]), _ops, _moments).map(" ".join),
    st.tuples(st.sampled_from(["t_after", "t_before", "t_intersects", "t_disjoint", "t_during"]),
              st.sampled_from(["datetime", "updated"]), _days, _days).map(
                  lambda t: f"{t[0]}({t[1]}, INTERVAL('{min(t[2:])}', '{max(t[2:])}'))"),
    _days.map(lambda d: f"T_INTERSECTS(datetime, INTERVAL('{d}', '..'))"),
)  # fmt: skip
_spatial = st.tuples(
    st.sampled_from(["S_INTERSECTS", "S_INTERSECTS", "S_DISJOINT", "S_WITHIN", "S_CONTAINS"]),
    _geometries,
).map(lambda t: f"{t[0]}(geometry, {t[1]})")
_conditions = st.recursive(
    st.one_of(_plain, _plain, _spatial),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map("".join).map("({})".format),
        inner.map("NOT ({})".format),
    ),
    max_leaves=6,
)
_brief = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="COGCAT_SEARCH_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@_brief
@given(
    text=_conditions,
    more=st.fixed_dictionaries(
        {},
        optional={
            "tile": st.sampled_from(["10TFR", ["31UDQ", "01CCV"]]),
            "bbox": st.sampled_from([(-121, 44, -120, 45), (179, -90, -179, 90), (0, 40, 20, 90)]),
            "status": st.sampled_from([None, "indexed"]),
            "sort": st.sampled_from(["cloud_cover,-datetime", "-updated", "id"]),
            "limit": st.integers(1, 40),
            "as_of": st.integers(-300, 30).map(lambda n: START + n * DAY),
            "per_tile": st.sampled_from(["latest", "least_cloudy"]),
            "updated_since": st.sampled_from(["2023-01-03", START]),
        },
    ),
)
@example(text="collection = 'sentinel-2-c1-l2a'", more={})
@example(text="TRUE", more={})
def test_every_condition_is_answered_as_brute_force_does(
    filled: Filled, text: str, more: Row
) -> None:
    query = Query.parse(**{"status": None} | more, filter=text)
    document = cql2.parse_text(text).to_json()
    there = filled.records if query.as_of is None else filled.then(query.as_of)  # type: ignore[arg-type]
    expected = []
    for record in there:
        shape = filled.shapes[record.footprint]
        if query.tile and record.tile not in query.tile:
            continue
        if query.status and record.status not in query.status:
            continue
        if query.updated_since and (record.updated is None or record.updated < query.updated_since):
            continue
        if query.area is not None and not _touching(query.area, shape):
            continue
        if _evaluate(document, record, shape):
            expected.append(record)
    if query.per_tile is not None:
        from dataclasses import replace

        best: dict[str, SceneRecord] = {}
        for record in in_order(replace(query, sort=PER_TILE[query.per_tile]), expected):
            best.setdefault(record.tile, record)
        expected = list(best.values())
    expected = in_order(query, expected)[: query.limit]
    assert filled.ask(query) == expected
    assert filled.count(query) == len(expected)
    assert filled.ask(Query.parse(**{"status": None} | more, filter=document)) == expected


def test_states_of_the_past(filled: Filled) -> None:
    state = filled.revisions[0]
    record = next(r for r in filled.records if r.pk == state["scene_id"])
    query = Query.parse(ids=record.id, as_of=state["recorded_at"], status="any")
    (then,) = filled.ask(query)
    assert (then.revision, then.cloud_cover, then.status) == (1, state["cloud_cover"], "indexed")
    earlier = Query.parse(
        ids=record.id, as_of=state["recorded_at"] - timedelta(microseconds=1), status="any"
    )
    assert filled.ask(earlier) == []
    # A snapshot stands for the moment of its recording.
    now = Query.parse(status="any", sort="id", as_of="S" * 20)
    assert len(filled.ask(now)) == len(filled.records)
    with pytest.raises(NotFoundError, match="no recorded snapshot"):
        filled.ask(Query.parse(as_of="A" * 20))


def test_tiles_that_grow_are_seen(tmp_path: Any) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'cogcat.db'}")
    migrate(engine)
    rows = [row for row in _rows(400) if row["tile"] == "10TFR"]
    for row in rows:
        row["branch_id"] = row["snapshot_id"] = row["root"] = row["time_index"] = None
        row["status"] = "pending"
    _fill(engine, rows[:5], [])
    tiles = TileBoxes()
    query = Query.parse(bbox=(-180, -90, 180, 90), status=None)
    with read_transaction(engine) as connection:
        assert len(Asker(connection, 1, tiles).records(query)) == 5
    moved = rows[5] | {"minx": 20.0, "maxx": 21.0, "miny": 0.0, "maxy": 1.0, "tile": "33NAA",
                       "footprint": shapely.to_wkb(shapely.box(20, 0, 21, 1))}  # fmt: skip
    with write_transaction(engine) as connection:
        connection.execute(insert(SCENES), [moved])
        connection.execute(
            insert(TILES), [{n: moved[n] for n in ("tile", "minx", "miny", "maxx", "maxy")}]
        )
    with read_transaction(engine) as connection:
        found = Asker(connection, 1, tiles).records(Query.parse(bbox=(20, 0, 21, 1), status=None))
    assert [record.tile for record in found] == ["33NAA"]
    engine.dispose()


BAD = [
    ("eo:cloud_cover <", "does not parse"),
    ("", "does not parse"),
    ('{"op": "=", "args": [', "does not parse"),
    ("colour = 'red'", "unknown property 'colour'; known are"),
    ("frob(id) = 'x'", "unknown function or operator 'frob'"),
    ("id = ACCENTI('x')", "not a property|ACCENTI|accenti|needs a property"),
    ("eo:cloud_cover + 1 < 10", "unknown function or operator '\\+'"),
    ("eo:cloud_cover < '10'", "is a number"),
    ("platform = 5", "is a text"),
    ("datetime > 5", "is a time"),
    ("datetime > 'yesterday'", "malformed datetime"),
    ("datetime > '2023/2024'", "is a time"),
    ("geometry = 'x'", "S_INTERSECTS can"),
    ("platform", "is not a condition"),
    ("platform = eo:cloud_cover", "a number"),
    ("S_TOUCHES(geometry, POINT(0 0))", "unknown function or operator 's_touches'"),
    ("S_INTERSECTS(id, POINT(0 0))", "needs the property geometry"),
    ("S_INTERSECTS(geometry, POINT(0 95))", "longitude, latitude"),
    ("T_MEETS(datetime, INTERVAL('2023-01-01', '2023-02-01'))", "unknown function"),
    ("T_EQUALS(datetime, INTERVAL('2023-01-01', '2023-02-01'))", "for intervals"),
    ("T_AFTER(platform, DATE('2023-01-01'))", "for times"),
    ("A_CONTAINS(id, ('a', 'b'))", "unknown function or operator 'a_contains'"),
    ("eo:cloud_cover LIKE '1%'", "LIKE is for text"),
    ("id LIKE 'x\\'", "does not parse|escape"),
    ("CASEI(eo:cloud_cover) = 'x'", "CASEI is for text"),
    ("(" * 5000 + "id = 'a'" + ")" * 5000, "nested"),
    ("NOT " * 5000 + "id = 'a'", "nested"),
    (" OR ".join(["id = 'a'"] * 500), "500 conditions is too much: 400"),
    ({"op": "=", "args": [{"property": "id"}]}, "takes 2 arguments"),
    ({"op": "=", "args": [{"property": "id"}, None]}, "CQL2|needs a property"),
    ({"op": "=", "args": [{"property": "id"}, "a"], "not": True}, "amiss is not"),
    ({"op": "and", "args": []}, "nothing to join"),
    ({"op": "in", "args": [{"property": "id"}, "a"]}, "needs a list"),
    ({"filter": "id = 'a'"}, "CQL2"),
    (5, "write CQL2"),
]


@pytest.mark.parametrize(("given_", "message"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_filters(given_: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Query.parse(filter=given_)
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.one_of(st.text(), st.from_regex(r"[a-z: ]{0,9}[<>=(]{1,3}[A-Z0-9'()., ]{0,20}")))
def test_any_text_is_a_filter_or_a_catalog_error(text: str) -> None:
    caught = ""
    try:
        assert parse_filter(text).text == text.strip()
    except CatalogError as error:
        caught = str(error)
    assert "\n" not in caught


def test_forms_of_a_filter() -> None:
    text = "eo:cloud_cover < 10 AND platform = 'sentinel-2a'"
    document = cql2.parse_text(text).to_json()
    forms = [text, document, json.dumps(document), parse_filter(text)]
    assert len({parse_filter(form).tree for form in forms}) == 1
    other = parse_filter(text.replace("10", "20").replace("2a", "2b"))
    # The same statement: values stand apart.
    assert other.tree == parse_filter(text).tree
    assert other.values == (20.0, "sentinel-2b")


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"as_of": "soon"}, "as_of"),
        ({"as_of": datetime(2023, 1, 1)}, "no time zone"),  # noqa: DTZ001
        ({"as_of": "2023/2024"}, "as_of"),
        ({"as_of": 5}, "as_of"),
        ({"per_tile": "best"}, "known are latest, least_cloudy"),
        ({"updated_since": "2023/2024"}, "no range"),
        ({"updated_since": "soon"}, "datetime"),
    ],
)
def test_bad_questions(question: Row, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Query.parse(**question)
