"""Times, boxes, tiles and platforms as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import UsageError
from catalog.parse import (
    format_datetime,
    parse_baseline,
    parse_bbox,
    parse_cloud_cover,
    parse_datetime,
    parse_instant,
    parse_item_id,
    parse_limit,
    parse_platform,
    parse_tile,
)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


LAST = (23, 59, 59, 999999)


@pytest.mark.parametrize(
    ("when", "start", "end"),
    [
        (None, None, None),
        ("2023", at(2023, 1, 1), at(2023, 12, 31, *LAST)),
        ("2023-12", at(2023, 12, 1), at(2023, 12, 31, *LAST)),
        ("2024-02", at(2024, 2, 1), at(2024, 2, 29, *LAST)),
        ("2023-12-23", at(2023, 12, 23), at(2023, 12, 23, *LAST)),
        ("9999", at(9999, 1, 1), at(9999, 12, 31, *LAST)),
        ("2023-12-23T19:11:53Z", at(2023, 12, 23, 19, 11, 53), at(2023, 12, 23, 19, 11, 53)),
        (
            "2023-12-23t19:11:53.5+05:30",
            at(2023, 12, 23, 13, 41, 53, 500000),
            at(2023, 12, 23, 13, 41, 53, 500000),
        ),
        ("2023-12-23 19:11:53", at(2023, 12, 23, 19, 11, 53), at(2023, 12, 23, 19, 11, 53)),
        ("2023-01/2023-03", at(2023, 1, 1), at(2023, 3, 31, *LAST)),
        ("2023/..", at(2023, 1, 1), None),
        ("../2023-06", None, at(2023, 6, 30, *LAST)),
        ("/2023-06", None, at(2023, 6, 30, *LAST)),
        (date(2023, 12, 23), at(2023, 12, 23), at(2023, 12, 23, *LAST)),
        (datetime(2023, 12, 23, 1), at(2023, 12, 23, 1), at(2023, 12, 23, 1)),  # noqa: DTZ001
        (
            (date(2023, 1, 1), datetime(2023, 2, 1, tzinfo=timezone(timedelta(hours=1)))),
            at(2023, 1, 1),
            at(2023, 1, 31, 23),
        ),
        (("2023", None), at(2023, 1, 1), None),
        (["..", "2023-06"], None, at(2023, 6, 30, *LAST)),
        (slice("2023", "2023-06"), at(2023, 1, 1), at(2023, 6, 30, *LAST)),
        (slice("2023", None), at(2023, 1, 1), None),
        (np.datetime64("2023-12"), at(2023, 12, 1), at(2023, 12, 31, *LAST)),
        (np.datetime64("2023-12-23T01", "ns"), at(2023, 12, 23, 1), at(2023, 12, 23, 1)),
        (
            np.array(["2023-01-01", "2023-02-01"], "datetime64[ns]"),
            at(2023, 1, 1),
            at(2023, 2, 1),
        ),
        (pd.Timestamp("2023-12-23T01:00+01:00"), at(2023, 12, 23), at(2023, 12, 23)),
    ],
)
def test_datetime_forms(when: object, start: datetime | None, end: datetime | None) -> None:
    assert parse_datetime(when) == (start, end)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "when",
    [
        *("", "x", "2023-13", "2023-02-30", "2023-1", "../..", "/", "2024/2023", "a/b/c", "0000"),
        *("2023-12-23T25:00:00Z", "0001-01-01T00:00:00+05:00", "２０２３"),
        *(5, (1, 2, 3), ("2023", 5), (None, None), ("..", ""), [], ["2023"]),
        *(
            pd.NaT,
            ("2023", pd.NaT),
            np.datetime64("NaT", "s"),
            slice("2023", "2024", 2),
            slice(None),
        ),
        *(pd.Period("2023"), np.zeros((2, 2), "datetime64[D]"), object()),
    ],
)
def test_malformed_datetime_says_what_is_right(when: object) -> None:
    with pytest.raises(UsageError, match="malformed datetime"):
        parse_datetime(when)  # type: ignore[arg-type]


@given(st.datetimes(timezones=st.just(UTC)))
def test_formatted_datetimes_come_back(moment: datetime) -> None:
    assert parse_instant(format_datetime(moment)) == moment


def test_instant_needs_an_offset() -> None:
    with pytest.raises(ValueError, match="no offset"):
        parse_instant("2023-12-23T19:11:53")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("1,2,3,4", (1, 2, 3, 4)),
        ([1, 2, 10, 3, 4, 20], (1, 2, 3, 4)),
        ("170,-10,-170,10", (170, -10, -170, 10)),
        ((170, 0, 190, 5), (170, 0, -170, 5)),
        ((200, 0, 210, 1), (-160, 0, -150, 1)),
        ((0, 0, 360, 5), (-180, 0, 180, 5)),
        ((-190, 0, -170, 5), (170, 0, -170, 5)),
        ((-180.00000000000003, 0, 10, 5), (179.99999999999997, 0, 10, 5)),
    ],
)
def test_boxes(box: object, expected: tuple[float, ...]) -> None:
    assert parse_bbox(box) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "box",
    [
        *("1,2,3", "a", "", None, [1, 2, 3, float("nan")], [0, 91, 0, 92], [0, 5, 0, 4]),
        *([True, 1, 2, 3], [[1], 2, 3, 4], [-400, 0, 0, 1], [10**400, 0, 1, 1]),
    ],
)
def test_malformed_box_says_what_is_right(box: object) -> None:
    with pytest.raises(UsageError, match=r"malformed bbox.*-122\.5,37\.2"):
        parse_bbox(box)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tile"),
    [("10TFR", "10TFR"), ("t10tfr", "10TFR"), ("1CCV", "01CCV"), ("MGRS-13TDE", "13TDE")],
)
def test_tiles(text: str, tile: str) -> None:
    assert parse_tile(text) == tile


@pytest.mark.parametrize("text", ["", "10TIR", "99TFR", "00TFR", "10TZR", "10TFRR", 5, None])
def test_no_such_tile(text: object) -> None:
    with pytest.raises(UsageError, match="10TFR"):
        parse_tile(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["sentinel-2a", "Sentinel-2A", "S2A", "sentinel 2a", "SENTINEL2A"])
def test_platforms(text: str) -> None:
    assert parse_platform(text) == "sentinel-2a"


@pytest.mark.parametrize("text", ["landsat-8", "sentinel-2", "S2E", "", None])
def test_no_such_platform(text: object) -> None:
    with pytest.raises(UsageError, match="sentinel-2a"):
        parse_platform(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["05.10", "5.10", "N0510", "n05.10", " 0510 "])
def test_baselines(text: str) -> None:
    assert parse_baseline(text) == "05.10"


@pytest.mark.parametrize("text", ["", "5", "new", "05.1", "N05100", 5.1, None])
def test_no_such_baseline(text: object) -> None:
    with pytest.raises(UsageError, match=r"baseline.*05\.10"):
        parse_baseline(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, np.int64(5), 2**63 - 2, None])
def test_limits(limit: Any) -> None:
    assert parse_limit(limit) == limit


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "5", 2**63 - 1, 10**30])
def test_no_limit(limit: Any) -> None:
    with pytest.raises(UsageError, match="malformed limit"):
        parse_limit(limit)


@pytest.mark.parametrize("percent", [0, 20.5, np.float32(20), np.int8(3)])
def test_percentages(percent: Any) -> None:
    assert parse_cloud_cover(percent) == percent


@pytest.mark.parametrize("name", ["", "  ", None, 5, "\ud800", "x\udcff"])
def test_no_names(name: Any) -> None:
    with pytest.raises(UsageError, match="S2B_T10TFR"):
        parse_item_id(name)
