"""What the properties of a STAC item say and a scene can do without.

Each function gives None, and a sentence in ``notes``, where the item says nothing sensible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from catalog.errors import UsageError
from catalog.json_values import brief, finite
from catalog.parse import parse_instant, parse_platform

type Properties = Mapping[str, Any]

FIRST = datetime(2015, 1, 1, tzinfo=UTC)
"""Sentinel-2A was launched on 23 June 2015: no scene, and no record of one, is older."""
SKEW = timedelta(days=1)
"""What a clock may be ahead of ours."""

PRODUCT_NAMES = ("s2:product_uri", "sentinel:product_id")
"""ESA's name of the product, whose parts say what no other field may; the second is that of Earth
Search v0, as all ``sentinel:`` fields are."""
_BASELINE_IN_NAME = re.compile(r"_N(\d{4})_", re.ASCII)
_BASELINE = re.compile(r"N?(\d{1,2})\.(\d{1,2})|N?(\d{2})(\d{2})", re.ASCII)
_DATATAKE = re.compile(r"(GS2[A-Z]_\d{8}T\d{6}_\d{6})(?:_N\d{2}\.\d{2})?", re.ASCII)
_DATASTRIP_BEGIN = re.compile(r"_S(\d{8}T\d{6})(?:_|$)", re.ASCII)


def platform_of(properties: Properties, notes: list[str]) -> str | None:
    """``sentinel-2a``."""
    value = properties.get("platform")
    if value is None:
        return None
    try:
        return parse_platform(value)
    except UsageError:
        notes.append(f"platform {brief(value)} is none of Sentinel-2.")
        return None


def cloud_cover_of(properties: Properties, notes: list[str]) -> float | None:
    """Percent, 0 to 100."""
    value = properties.get("eo:cloud_cover")
    number = finite(value)
    if value is not None and (number is None or not 0 <= number <= 100):
        notes.append(f"eo:cloud_cover is {brief(value)}, not a percentage.")
        return None
    if number is not None and properties.get("sentinel:valid_cloud_cover") is False:
        notes.append("sentinel:valid_cloud_cover is false: eo:cloud_cover is not used.")
        return None
    return number


def time_beside(properties: Properties, key: str, notes: list[str]) -> datetime | None:
    """``created`` or ``updated``: aware, UTC."""
    value = properties.get(key)
    if not isinstance(value, str):
        if value is not None:
            notes.append(f"{key} is {brief(value)}, not a date-time.")
        return None
    try:
        moment = parse_instant(value)
    except ValueError as error:
        notes.append(f"{key}: {error}.")
        return None
    if fault := time_fault(moment):
        notes.append(f"{key} is {brief(value)}, {fault}: it is not used.")
        return None
    return moment


def time_fault(moment: datetime) -> str | None:
    """What is wrong with a moment in the life of a scene; None where nothing is."""
    if moment < FIRST:
        return "before Sentinel-2 flew"
    return "in the future" if moment > datetime.now(UTC) + SKEW else None


def baseline_of(properties: Properties, notes: list[str]) -> tuple[str | None, str]:
    """The processing baseline, ``05.10``, and the field that says so."""
    for key in ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline"):
        value = properties.get(key)
        if value is None:
            continue
        number = finite(value) if isinstance(value, float) else None
        text = f"{value:05.2f}" if number is not None and abs(number) < 100 else value
        match = None
        if isinstance(text, str) and len(text) < 20:
            match = _BASELINE.fullmatch(text.strip().upper())
        if match:
            major, minor = (match[1], match[2]) if match[1] else (match[3], match[4])
            return f"{int(major):02}.{minor:0<2}", key
        notes.append(f"{key} is {brief(value)}, not a processing baseline.")
    for key in PRODUCT_NAMES:
        name = properties.get(key)
        if isinstance(name, str) and (match := _BASELINE_IN_NAME.search(name)):
            return f"{match[1][:2]}.{match[1][2:]}", key
    return None, ""


def acquisition_of(properties: Properties) -> str | None:
    """The datatake without its baseline, and when the datastrip began."""
    # A tile on the seam of two datastrips of one datatake is two acquisitions, each with its own
    # part of the ground.
    datatake, strip = properties.get("s2:datatake_id"), properties.get("s2:datastrip_id")
    match = _DATATAKE.fullmatch(datatake) if isinstance(datatake, str) else None
    if match is None:
        return None
    begin = _DATASTRIP_BEGIN.search(strip) if isinstance(strip, str) else None
    return f"{match[1]} {begin[1]}" if begin else match[1]
