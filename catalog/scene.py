"""Scene and Asset: what a STAC item becomes at the border, and what all else works with.

Values only; ``item.py`` makes them from documents.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from catalog.json_values import plain


@dataclass(frozen=True, slots=True)
class Asset:
    """One COG of a scene, as its item describes it."""

    band: str
    """Array name (see ``bands.py``)."""
    key: str
    """Asset key in the item: ``red`` or ``B04``."""
    href: str
    """Address as in the item, unsigned."""
    size: int | None
    """Bytes, from ``file:size``; None where the item does not say."""
    checksum: str | None
    """``file:checksum``: a multihash, lower-case hex (``1220…`` is SHA-256); None where absent."""
    shape: tuple[int, int] | None
    """(rows, columns) of the full resolution, from ``proj:shape``; None where absent."""
    transform: tuple[float, float, float, float, float, float] | None
    """Affine order (a, b, c, d, e, f), in metres of the scene's CRS; None where absent."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One acquisition of one MGRS tile, as its STAC item describes it."""

    id: str
    """Item id, unique within its collection."""
    collection: str
    dialect: str
    """``earth-search-c1``, ``earth-search-v1``, ``planetary-computer``, else ``generic``."""
    tile: str
    """MGRS tile, five characters without the T: ``10TFR``, ``01CCV``."""
    epsg: int
    """Of the UTM zone, 326zz or 327zz."""
    datetime: dt.datetime
    """Aware, UTC, microseconds."""
    platform: str | None
    """Lower case with a hyphen: ``sentinel-2a``."""
    cloud_cover: float | None
    """Percent, 0 to 100."""
    baseline: str | None
    """Processing baseline, two digits a side: ``05.10``."""
    acquisition: str | None
    """What was sensed, whoever processed it and when: the datatake without its baseline, and
    when the datastrip began, ``GS2B_20231223T190949_035490 20231223T190950``. With the tile it
    names one acquisition; None where the item does not say."""
    footprint: bytes
    """WKB of a valid (Multi)Polygon, EPSG:4326 longitude latitude. A footprint
    over the antimeridian is one piece whose longitudes go beyond 180."""
    bbox: tuple[float, float, float, float]
    """Of ``footprint``: (minx, miny, maxx, maxy), degrees; minx in [-180, 180), maxx >= minx and
    perhaps beyond 180."""
    created: dt.datetime | None
    """The source's own, aware, UTC."""
    updated: dt.datetime | None
    """The source's own, aware, UTC; None in Planetary Computer."""
    boa_offset: int
    """Added to the DN of reflectance bands before the scale of 0.0001: 0 or -1000."""
    boa_evidence: str
    """What ``boa_offset`` was read from: ``earthsearch:boa_offset_applied=true``,
    ``raster:offset=-0.1``, ``s2:processing_baseline=05.10``, or ``none``."""
    warnings: tuple[str, ...]
    """Missing bands, contradicting evidence: one sentence each."""
    item_sha256: str
    """Hex SHA-256 of the item as served: its JSON with sorted keys, no white space, UTF-8."""
    assets: tuple[Asset, ...]
    """One per band, in the order of ``bands.BANDS``."""
    required: tuple[str, ...] = ()
    """Bands without which it is not to be indexed, as the crawl that meant to said."""
    refused: tuple[str, ...] = ()
    """Bands that the item has at an address which references cannot carry; ``warnings`` says why.
    None of them is among ``assets``."""


def not_indexed(band: str, reason: str) -> str:
    """The sentence among ``warnings`` for a band that is not indexed."""
    return f"{_begin(band)}{reason}."


def why_not_indexed(band: str, warnings: Iterable[str]) -> str | None:
    """The reason that ``not_indexed`` gave among ``warnings``; None where it is not among them."""
    begin = _begin(band)
    said = (text[len(begin) :].removesuffix(".") for text in warnings if text.startswith(begin))
    return next(said, None)


def _begin(band: str) -> str:
    return f"{band} is not indexed: "


_TIMES = ("datetime", "created", "updated")


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """``scene`` as plain JSON values: times as ISO 8601, the footprint as hex."""
    document: dict[str, Any] = plain(scene) | {"footprint": scene.footprint.hex()}
    return document


def scene_from_json(document: dict[str, Any]) -> Scene:
    """The inverse of ``scene_to_json``."""
    # Written by an earlier version, it has none.
    fields = {"acquisition": None, "required": (), "refused": ()} | document
    for name in _TIMES:
        fields[name] = None if fields[name] is None else dt.datetime.fromisoformat(fields[name])
    assets = [
        Asset(
            **asset | {name: asset[name] and tuple(asset[name]) for name in ("shape", "transform")}
        )
        for asset in fields["assets"]
    ]
    return Scene(
        **fields
        | {
            "assets": tuple(assets),
            "bbox": tuple(fields["bbox"]),
            "footprint": bytes.fromhex(fields["footprint"]),
            "warnings": tuple(fields["warnings"]),
            "required": tuple(fields["required"]),
            "refused": tuple(fields["refused"]),
        }
    )
