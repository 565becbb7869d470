"""Assets of a STAC item → Asset: which are COGs of a band, and what the item says of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from catalog.bands import BANDS, band_of_asset_key
from catalog.errors import ItemError
from catalog.json_values import band_list, finite, whole
from catalog.scene import Asset

type Found = list[tuple[str, str, Mapping[str, Any]]]
"""(band, asset key, asset) of each COG, in the item's order; a band may come twice."""

# Query parameters that carry a signature: Azure, AWS (versions 4 and 2), Google.
_SIGNATURES = frozenset({"sig", "x-amz-signature", "signature", "x-goog-signature"})
_INT64 = 2**63


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
) -> tuple[Asset, ...]:
    """One ``Asset`` per band, in the order of ``BANDS``; of ``wanted`` bands where given.

    A malformed size, checksum, shape or transform becomes None and a sentence in ``notes``.

    Raises:
        ItemError: no wanted band, two assets for one band, or an href that cannot be read.
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
    bad: dict[str, list[str]] = {}
    assets = tuple(
        _asset(properties, band.name, *by_band[band.name], bad)
        for band in BANDS
        if band.name in by_band
    )
    notes += [f"{field} of {band_list(bands)} is malformed." for field, bands in bad.items()]
    return assets


def _asset(
    properties: Mapping[str, Any],
    band: str,
    key: str,
    asset: Mapping[str, Any],
    bad: dict[str, list[str]],
) -> Asset:
    def read[T](field: str, value: Any, parsed: T | None) -> T | None:
        if value is not None and parsed is None:
            bad.setdefault(field, []).append(band)
        return parsed

    size = asset.get("file:size")
    checksum = asset.get("file:checksum")
    # What holds for all assets may be said once, in the properties.
    shape = asset.get("proj:shape", properties.get("proj:shape"))
    transform = asset.get("proj:transform", properties.get("proj:transform"))
    return Asset(
        band=band,
        key=key,
        href=_href(asset.get("href"), band),
        size=read("file:size", size, whole(size, _INT64)),
        checksum=read("file:checksum", checksum, _multihash(checksum)),
        shape=read("proj:shape", shape, _shape(shape)),
        transform=read("proj:transform", transform, _transform(transform)),
    )


def _href(href: Any, band: str) -> str:
    """Checked, and without the signature that a signing client may have put on it."""
    if not isinstance(href, str) or not href:
        raise ItemError("no href", band=band)
    if not href.isprintable() or " " in href:  # the one white space that is printable
        raise ItemError("its href holds white space or control characters", band=band)
    try:
        parts = urlsplit(href)
        credentials = parts.username or parts.password
        absolute = parts.scheme in ("http", "https", "s3", "file") and parts.path.strip("/")
        if not absolute or (parts.scheme != "file" and not parts.hostname):
            raise ValueError("not absolute")
        signed = any(key.lower() in _SIGNATURES for key, _ in parse_qsl(parts.query))
    except ValueError as error:
        shown = href.partition("?")[0].rpartition("@")[2]
        raise ItemError(
            "its href is not an absolute http, https, s3 or file address", band=band, href=shown
        ) from error
    if credentials:
        raise ItemError("its href carries a user name or password", band=band)
    return urlunsplit(parts._replace(query="")) if signed else href


def _multihash(value: Any) -> str | None:
    """Lower-case hex of a multihash (https://multiformats.io/multihash), or None.

    Two varints, the function's code and the digest's length, then that many bytes;
    ``1220`` and 32 bytes are SHA-256.
    """
    if not isinstance(value, str):
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
    rows, columns = (whole(number, 2**31) for number in value)
    return (rows, columns) if rows and columns else None


def _transform(value: Any) -> tuple[float, float, float, float, float, float] | None:
    if not isinstance(value, list | tuple) or len(value) not in (6, 9):
        return None
    numbers = [number for number in map(finite, value) if number is not None]
    if len(numbers) != len(value) or numbers[6:] not in ([], [0.0, 0.0, 1.0]):
        return None
    a, b, c, d, e, f = numbers[:6]
    return (a, b, c, d, e, f) if a * e - b * d != 0 else None
