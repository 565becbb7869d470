"""Footprints: valid, flat, one piece over the antimeridian, found again at every shift."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.area import (
    box_geometry,
    intersects_footprint,
    parse_geometry,
    plain_geometry,
    query_boxes,
    query_geometry,
)
from catalog.errors import UsageError
from catalog.footprint import footprint


def polygon(*positions: tuple[float, ...]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[list(p) for p in (*positions, positions[0])]]}


def asked(question: Any) -> Any:
    """A box or a GeoJSON geometry, as ``intersects_footprint`` takes it."""
    box = isinstance(question, tuple)
    return query_geometry(box_geometry(question) if box else parse_geometry(question))


def wrap(longitude: float) -> float:
    return (longitude + 180) % 360 - 180


@st.composite
def tiles(draw: st.DrawFn) -> tuple[list[tuple[float, float]], float, float]:
    """(corners with unwrapped longitudes, centre): 110 km squares up to 83° of latitude."""
    latitude = draw(st.floats(-80, 83))
    longitude = draw(st.one_of(st.floats(-180, 180), st.floats(178, 182)))
    height = 0.5
    width = 0.5 / math.cos(math.radians(latitude))
    tilt = draw(st.floats(-0.2, 0.2))
    corners = [
        (longitude - width, latitude + height),
        (longitude - width + tilt, latitude - height),
        (longitude + width, latitude - height),
        (longitude + width - tilt, latitude + height),
    ]
    return corners, longitude, latitude


@settings(deadline=None, max_examples=300)
@given(tiles())
def test_any_tile_anywhere(tile: tuple[list[tuple[float, float]], float, float]) -> None:
    corners, longitude, latitude = tile
    wkb, (minx, miny, maxx, maxy) = footprint(polygon(*((wrap(x), y) for x, y in corners)))
    shape = shapely.from_wkb(wkb)
    assert shape.is_valid
    assert shape.geom_type == "Polygon"
    assert shape.bounds == (minx, miny, maxx, maxy)
    assert -180 <= minx < 180
    assert minx <= maxx < minx + 30
    for x, y in (*corners, (longitude, latitude)):
        distance = min(shape.distance(shapely.Point(x + turn, y)) for turn in (-360, 0, 360))
        assert distance < 1e-9
    # It is found at its middle, wherever the question is put, and not on the other side.
    query = asked((wrap(longitude), latitude, wrap(longitude), latitude))
    assert intersects_footprint([wkb], query).tolist() == [True]
    far = wrap(longitude + 180)
    query = asked((far, latitude, far, latitude))
    assert intersects_footprint([wkb], query).tolist() == [False]
    assert any(
        box[0] <= maxx and box[2] >= minx
        for box in query_boxes(shapely.Point(wrap(longitude), latitude))
    )


@settings(deadline=None, max_examples=200)
@given(tiles(), st.floats(-180, 180), st.floats(0.01, 359), st.floats(-85, 80))
def test_boxes_find_what_a_globe_would(
    tile: tuple[list[tuple[float, float]], float, float], west: float, width: float, south: float
) -> None:
    wkb, _ = footprint(polygon(*((wrap(x), y) for x, y in tile[0])))
    box = (west, south, wrap(west + width), south + 5)
    shape = shapely.from_wkb(wkb)
    questions = [
        shapely.box(west + turn, south, west + width + turn, south + 5)
        for turn in (-720, -360, 0, 360, 720)
    ]
    # At the very edge, rounding decides.
    certain = any(shape.buffer(-1e-6).intersects(question) for question in questions)
    possible = any(shape.distance(question) < 1e-6 for question in questions)
    found = bool(intersects_footprint([wkb], asked(box))[0])
    assert certain <= found <= possible


def test_split_at_the_antimeridian_becomes_one_piece() -> None:
    split = {
        "type": "MultiPolygon",
        "coordinates": [
            [[[179, 60], [180, 60], [180, 61], [179, 61], [179, 60]]],
            [[[-180, 60], [-179, 60], [-179, 61], [-180, 61], [-180, 60]]],
        ],
    }
    jumping = polygon((179, 60), (-179, 60), (-179, 61), (179, 61))
    whole = shapely.box(179, 60, 181, 61)
    for geometry in (split, jumping):
        wkb, bbox = footprint(geometry)
        assert shapely.from_wkb(wkb).equals(whole)
        assert bbox == (179, 60, 181, 61)


def test_heights_are_dropped_and_a_bow_tie_is_mended() -> None:
    wkb, _ = footprint(polygon((0, 0, 5), (2, 2, 5), (2, 0, 5), (0, 2, 5)))
    shape = shapely.from_wkb(wkb)
    assert shape.is_valid
    assert not shape.has_z
    assert shape.area == pytest.approx(2)


def test_hole_stays() -> None:
    geometry = polygon((179, 60), (-179, 60), (-179, 61), (179, 61))
    geometry["coordinates"].append(
        [[-179.6, 60.4], [-179.6, 60.6], [-179.4, 60.6], [-179.4, 60.4], [-179.6, 60.4]]
    )
    assert shapely.from_wkb(footprint(geometry)[0]).area == pytest.approx(2 - 0.04)


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        ({"type": "Point", "coordinates": [0, 0]}, "not a Polygon"),
        ([], "not a Polygon"),
        ({"type": "Polygon"}, "no coordinates|without rings"),
        ({"type": "MultiPolygon", "coordinates": []}, "no coordinates"),
        (polygon((0, 0), (1, 1)), "no area"),
        (polygon((0, 0), (1, float("nan")), (1, 0)), "outside the globe"),
        (polygon((0, 0), (1, 10**400), (1, 0)), "outside the globe"),
        (polygon((0, 0), (1, "1"), (1, 0)), "not a number"),  # type: ignore[arg-type]
        (polygon((0, 0), (1, 95), (1, 0)), "outside the globe"),
        (polygon((0, 80), (120, 80), (-120, 80)), "pole"),
        (polygon((0, 0), (100, 0), (100, 1), (0, 1)), "100°"),
        (polygon((0,), (1, 0), (1, 1)), "position"),
    ],
)
def test_not_a_footprint(geometry: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        footprint(geometry)


def test_questions_over_the_antimeridian() -> None:
    west, _ = footprint(polygon((178, 0), (179, 0), (179, 1), (178, 1)))
    over, _ = footprint(polygon((179.5, 0), (-179.5, 0), (-179.5, 1), (179.5, 1)))
    east, _ = footprint(polygon((-179, 0), (-178, 0), (-178, 1), (-179, 1)))
    all_three = np.array([west, over, east], dtype=object)

    def ask(question: Any) -> list[bool]:
        return intersects_footprint(all_three, asked(question)).tolist()

    assert ask((177, 0, -177, 1)) == [True, True, True]
    assert ask((-179.8, 0, -179.6, 1)) == [False, True, False]
    assert ask((-180, 0, -177, 1)) == [False, True, True]
    assert ask((0, 0, 10, 1)) == [False, False, False]
    assert ask({"type": "Point", "coordinates": [-179.7, 0.5]}) == [False, True, False]
    assert ask(polygon((177, 0), (183, 0), (183, 1), (177, 1))) == [True, True, True]
    assert (
        ask(plain_geometry(parse_geometry(polygon((177, 0), (183, 0), (183, 1), (177, 1)))))
        == [True] * 3
    )
    globe = polygon((-180, -90), (180, -90), (180, 90), (-180, 90))
    assert ask(globe) == [True, True, True]
    assert ask({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": globe}]})
    assert intersects_footprint([], asked(globe)).tolist() == []


def test_boxes_without_a_shift_are_one() -> None:
    assert query_boxes(box_geometry((10, 0, 20, 5))) == ((10, 0, 20, 5),)
    assert query_boxes(box_geometry((170, 0, -170, 5))) == ((-190, 0, -170, 5), (170, 0, 190, 5))
    assert query_boxes(box_geometry((-179, 0, -178, 5))) == ((-179, 0, -178, 5), (181, 0, 182, 5))


def test_geometry_to_send_is_cut_at_180() -> None:
    sent = shapely.geometry.shape(
        plain_geometry(parse_geometry(polygon((179, 0), (181, 0), (181, 1), (179, 1))))
    )
    assert sent.geom_type == "MultiPolygon"
    assert sent.bounds == (-180, 0, 180, 1)
    assert sent.area == pytest.approx(2)
    plain = polygon((1, 1, 9), (2, 1, 9), (2, 2, 9))
    assert plain_geometry(parse_geometry({"type": "Feature", "geometry": plain})) == polygon(
        (1, 1), (2, 1), (2, 2)
    )


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, "x"], [1, 1], [0, 0]]]},
        {"type": "Point", "coordinates": [0, float("inf")]},
        {"type": "Point", "coordinates": [0, 95]},
        {"type": "Feature", "geometry": None},
        {"type": "FeatureCollection", "features": []},
        {"type": "FeatureCollection", "features": [5]},
        {"type": "GeometryCollection", "geometries": [5]},
    ],
)
def test_not_a_question(geometry: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="malformed geometry") as caught:
        parse_geometry(geometry)
    assert "\n" not in str(caught.value)


def test_halves_at_the_antimeridian_have_no_box_around_the_globe() -> None:
    halves = parse_geometry(
        {
            "type": "MultiPolygon",
            "coordinates": [
                polygon((179, 0), (180, 0), (180, 1), (179, 1))["coordinates"],
                polygon((-180, 0), (-179, 0), (-179, 1), (-180, 1))["coordinates"],
            ],
        }
    )
    boxes = query_boxes(halves)
    assert len(boxes) == 4
    assert all(east - west == 1 for west, _, east, _ in boxes)


def test_features_become_one_area() -> None:
    squares = [shapely.box(0, 0, 2, 2), shapely.box(1, 1, 3, 3)]
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(square)} for square in squares
    ]
    area = parse_geometry({"type": "FeatureCollection", "features": features})
    assert area.geom_type == "Polygon"
    assert area.area == 7
    assert parse_geometry(shapely.geometrycollections(squares)).equals(area)
    assert plain_geometry(area)["type"] == "Polygon"
