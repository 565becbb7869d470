"""Assets of a STAC item → Asset: which are COGs of a band, and what the item says of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalog.affine import Transform, checked_transform
from catalog.bands import BANDS, band_of_asset_key
from catalog.errors import ItemError
from catalog.hrefs import checked_href, shown_href
from catalog.json_values import band_list, finite, whole
from catalog.scene import Asset, not_indexed

type Found = list[tuple[str, str, Mapping[str, Any]]]
"""(band, asset key, asset) of each COG, in the item's order; a band may come twice."""

_INT64 = 2**63
_SIDE = 2**20
"""Rows and columns that an image stays below, as in ``header.py``."""
_DIGEST = 128
"""Bytes of the longest digest; those of SHA-512 are 64."""


def band_cogs(item: Mapping[str, Any]) -> Found:
    """The assets that are COGs and whose key stands for a band.

    Raises:
        ItemError: there is none.
    """
    assets = item.get("assets")
    if not isinstance(assets, Mapping):
        raise ItemError("no assets")
    found = [
        (band, key, asset)
        for key, asset in assets.items()
        if isinstance(key, str)
        and isinstance(asset, Mapping)
        and (band := band_of_asset_key(key))
        and _is_cog(asset.get("type"))
    ]
    if not found:
        raise ItemError("no asset is a band of Sentinel-2 as Cloud-Optimized GeoTIFF")
    return found


def _is_cog(media_type: Any) -> bool:
    if not isinstance(media_type, str):
        return False
    kind, *parameters = (
        "".join(part.split()).replace('"', "") for part in media_type.lower().split(";")
    )
    if kind == "image/tiff":
        return "profile=cloud-optimized" in parameters
    return kind == "image/vnd.stac.geotiff" and "cloud-optimized=true" in parameters


def read_assets(
    properties: Mapping[str, Any],
    found: Found,
    wanted: tuple[str, ...] | None,
    notes: list[str],
) -> tuple[tuple[Asset, ...], tuple[str, ...]]:
    """One ``Asset`` per band, in the order of ``BANDS``; of ``wanted`` bands where given; and the
    bands whose hrefs are none of a file that references can name (see ``hrefs.py``).

    A malformed size, checksum, shape or transform becomes None and a sentence in ``notes``; so
    does a signature that is left out of an href, and a band that is.

    Raises:
        ItemError: no wanted band, two assets for one band, or not one href that can be taken.
    """
    by_band: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for band, key, asset in found:
        if wanted is not None and band not in wanted:
            continue
        if band in by_band:
            raise ItemError(f"assets {by_band[band][0]!r} and {key!r} are the same band", band=band)
        by_band[band] = key, asset
    if not by_band:
        raise ItemError(f"no asset for {band_list(wanted or ())}")
    bad: dict[tuple[str, str], list[str]] = {}
    assets: list[Asset] = []
    refused: dict[str, ItemError] = {}
    for band in (known.name for known in BANDS if known.name in by_band):
        try:
            assets.append(_asset(properties, band, *by_band[band], bad))
        except ItemError as error:
            refused[band] = error
    if not assets:
        raise next(iter(refused.values()))
    notes += [f"{field} of {band_list(bands)} {why}." for (field, why), bands in bad.items()]
    notes += [
        not_indexed(band, f"{error.reason}{f' ({error.href})' if error.href else ''}")
        for band, error in refused.items()
    ]
    return tuple(assets), tuple(refused)


def _asset(
    properties: Mapping[str, Any],
    band: str,
    key: str,
    asset: Mapping[str, Any],
    bad: dict[tuple[str, str], list[str]],
) -> Asset:
    def read[T](field: str, value: Any, parsed: T | None) -> T | None:
        if value is not None and parsed is None:
            bad.setdefault((field, "is malformed"), []).append(band)
        return parsed

    size = asset.get("file:size")
    checksum = asset.get("file:checksum")
    # What holds for all assets may be said once, in the properties.
    shape = asset.get("proj:shape", properties.get("proj:shape"))
    transform = asset.get("proj:transform", properties.get("proj:transform"))
    try:
        href, signed = checked_href(asset.get("href"))
    except ValueError as error:
        shown = shown_href(asset.get("href"))
        raise ItemError(str(error), band=band, href=shown) from error
    if signed:
        bad.setdefault(("the signature in the href", "is left out"), []).append(band)
    return Asset(
        band=band,
        key=key,
        href=href,
        # No file is empty.
        size=read("file:size", size, whole(size, _INT64) or None),
        checksum=read("file:checksum", checksum, _multihash(checksum)),
        shape=read("proj:shape", shape, _shape(shape)),
        transform=_transform(transform, band, bad),
    )


def _multihash(value: Any) -> str | None:
    """Lower-case hex of a multihash (https://multiformats.io/multihash), or None.

    Two varints, the function's code and the digest's length, then that many bytes;
    ``1220`` and 32 bytes are SHA-256.
    """
    if not isinstance(value, str) or len(value) > 2 * (_DIGEST + 18):
        return None
    try:
        # Unlike bytes.fromhex, no white space between the digits.
        data = bytes.fromhex(value) if value.isalnum() else b""
    except ValueError:
        return None
    (code, at), length = _varint(data, 0), 0
    if code >= 0:
        length, at = _varint(data, at)
    if code < 0 or length <= 0 or len(data) - at != length or (code == 0x12 and length != 32):
        return None
    return value.lower()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, index after it); (-1, at) where there is none of at most nine bytes."""
    value = 0
    for count, byte in enumerate(data[at : at + 9]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, at + count + 1
    return -1, at


def _shape(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    rows, columns = (whole(number, _SIDE + 1) for number in value)
    return (rows, columns) if rows and columns else None


def _transform(value: Any, band: str, bad: dict[tuple[str, str], list[str]]) -> Transform | None:
    if value is None:
        return None
    why = "is malformed"
    if isinstance(value, list | tuple) and len(value) in (6, 9):
        numbers = [number for number in map(finite, value) if number is not None]
        if len(numbers) == len(value) and numbers[6:] in ([], [0.0, 0.0, 1.0]):
            try:
                return checked_transform(numbers[:6])
            except ValueError as error:
                why = f"is {error}, and not used"
    bad.setdefault(("proj:transform", why), []).append(band)
    return None
