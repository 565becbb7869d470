"""The bands of Sentinel-2 L2A: their names here, and what other catalogs call them.

Names are Earth Search's asset keys. Numbers are those of the Sentinel-2 product
specification (B01 … B12, 8A), which Planetary Computer uses as asset keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from catalog.errors import NotFoundError, UsageError
from catalog.json_values import brief

MOST_ASKED = 1000
"""Bands, or classes of a mask, that one question names: there are two dozen."""


@dataclass(frozen=True, slots=True)
class Band:
    """One band of the product, as arrays of the store are named."""

    name: str
    """Array name in every group: ``red``, ``nir08``, ``scl`` …"""
    number: str
    """The product's own name: ``B04``, ``B8A``, ``SCL`` …; also Planetary Computer's asset key."""
    reflectance: bool
    """True where pixels are reflectance, to which ``boa_offset`` applies."""
    long_name: str
    """For the CF attribute of the same name."""


BANDS: tuple[Band, ...] = (
    Band("coastal", "B01", True, "Coastal aerosol, 443 nm"),
    Band("blue", "B02", True, "Blue, 490 nm"),
    Band("green", "B03", True, "Green, 560 nm"),
    Band("red", "B04", True, "Red, 665 nm"),
    Band("rededge1", "B05", True, "Red edge 1, 704 nm"),
    Band("rededge2", "B06", True, "Red edge 2, 740 nm"),
    Band("rededge3", "B07", True, "Red edge 3, 783 nm"),
    Band("nir", "B08", True, "Near infrared, 842 nm"),
    Band("nir08", "B8A", True, "Near infrared narrow, 865 nm"),
    Band("nir09", "B09", True, "Water vapour absorption, 945 nm"),
    Band("cirrus", "B10", True, "Cirrus, 1375 nm"),
    Band("swir16", "B11", True, "Short-wave infrared, 1610 nm"),
    Band("swir22", "B12", True, "Short-wave infrared, 2190 nm"),
    Band("visual", "TCI", False, "True colour image: red, green, blue"),
    Band("scl", "SCL", False, "Scene classification map"),
    Band("aot", "AOT", False, "Aerosol optical thickness"),
    Band("wvp", "WVP", False, "Water vapour"),
    Band("cloud", "CLD", False, "Cloud probability"),
    Band("snow", "SNW", False, "Snow probability"),
)

PROBABILITIES = frozenset({"cloud", "snow"})
"""Per cent, 0 to 100: the only bands in which 0 is a value."""
_BEYOND_PER_CENT = 255

BY_NAME: dict[str, Band] = {band.name: band for band in BANDS}
_BITS: dict[str, int] = {band.name: 1 << place for place, band in enumerate(BANDS)}
"""Recorded in every catalog: a band that comes to ``BANDS`` goes to its end."""
_ALIASES: dict[str, str] = {
    alias: band.name for band in BANDS for alias in (band.name, band.number.lower())
} | {"b1": "coastal", "b2": "blue", "b3": "green", "b4": "red", "b5": "rededge1"} | {
    "b6": "rededge2", "b7": "rededge3", "b8": "nir", "b9": "nir09"
}  # fmt: skip


def band_name(name: str) -> str:
    """The array name for ``name``, which may be a number (``B04``) in any case.

    Raises:
        NotFoundError: no band is called so; the message lists those that are.
    """
    try:
        return _ALIASES[name.strip().lower()]
    except (KeyError, AttributeError):
        known = ", ".join(f"{band.name} ({band.number})" for band in BANDS)
        raise NotFoundError(f"unknown band {brief(name)}; known are {known}") from None


def band_names(names: Iterable[str]) -> tuple[str, ...]:
    """``band_name`` of each, without repeats, in the order asked for; a text alone is one.

    Raises:
        NotFoundError: no band is called so.
        UsageError: there are more than ``MOST_ASKED``.
    """
    return tuple(dict.fromkeys(band_name(name) for name in asked("bands", names)))


def asked(what: str, given: Any) -> list[Any]:
    """The members of an argument that takes one or several, without reading an endless one.

    Raises:
        UsageError: there are more than ``MOST_ASKED``.
    """
    if isinstance(given, str | bytes | Mapping):
        return [given]
    try:
        # An array of no dimension has __iter__ too, and refuses.
        several = list(islice(given, MOST_ASKED + 1))
    except TypeError:
        return [given]
    if len(several) > MOST_ASKED:
        raise UsageError(f"{what} has more than {MOST_ASKED} members: name each once")
    return several


def band_place(name: str) -> tuple[int, str]:
    """To sort by, in the order of ``BANDS``; a name that is none of them comes last."""
    return _BITS.get(name, 1 << len(BANDS)), name


def band_bits(names: Iterable[str]) -> int | None:
    """A set of bands as one number, as the catalog keeps it; None for none."""
    return sum(_BITS[name] for name in set(names)) or None


@lru_cache(4096)
def bands_in(bits: int | None) -> tuple[str, ...]:
    """The bands of ``band_bits``, in the order of ``BANDS``.

    Raises:
        ValueError, TypeError: there are no such bits.
    """
    if bits is None:
        return ()
    if not 0 <= bits < 1 << len(BANDS):
        raise ValueError(f"{bits} is no set of bands")
    return tuple(name for name, bit in _BITS.items() if bits & bit)


@lru_cache(4096)
def band_set(bits: int | None) -> frozenset[str] | None:
    """The same as a set; None for none."""
    return frozenset(bands_in(bits)) or None


def band_of_asset_key(key: str) -> str | None:
    """The band an item's asset key stands for in any of the dialects, or None."""
    return _ALIASES.get(key.lower())


def nodata_of(band: str, tagged: int | float | None) -> int | float | None:
    """The pixel value of ``band`` that stands for no pixel.

    0 in all bands of Level-2A but the probabilities, whatever a file's ``GDAL_NODATA`` says: in the
    product's metadata it is the special value ``NODATA`` of the images (Sentinel-2 Products
    Specification Document S2-PDGS-TAS-DI-PSD, ``Special_Values``), in SCL it is the class
    ``NO_DATA``, and in TCI it is reserved (the same document: "coded between 1 and 255, 0 being
    reserved for No Data"). Since baseline 04.00, which shifts reflectance, "DN=0 remains the
    NO_DATA value" (SentiWiki, S2 Products).

    Of probabilities 0 is 0 %: there it is what the file says, else a number that is none of theirs.

    Args:
        tagged: what the file says; None where it does not.
    """
    if band not in BY_NAME:
        return tagged
    if band in PROBABILITIES:
        return _BEYOND_PER_CENT if tagged is None else tagged
    return 0
