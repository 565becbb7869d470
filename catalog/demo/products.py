"""Made-up acquisitions: what a product is called, where its files lie, when it was made.

Names and keys follow those of the real archives; no catalog describes the scene yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.bands import BY_NAME

EARTH_SEARCH_C1 = "earth-search-c1"
EARTH_SEARCH_V1 = "earth-search-v1"
PLANETARY_COMPUTER = "planetary-computer"
DIALECTS = (EARTH_SEARCH_C1, EARTH_SEARCH_V1, PLANETARY_COMPUTER)

_TEN = ("blue", "green", "red", "nir", "visual")
_SIXTY = ("coastal", "nir09")
_BANDS_C1 = (
    "red",
    "green",
    "blue",
    "visual",
    "nir",
    "swir22",
    "rededge2",
    "rededge3",
    "rededge1",
    "swir16",
    "wvp",
    "nir08",
    "scl",
    "aot",
    "coastal",
    "nir09",
    "cloud",
    "snow",
)
_BANDS_V1 = (
    "aot",
    "blue",
    "coastal",
    "green",
    "nir",
    "nir08",
    "nir09",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "scl",
    "swir16",
    "swir22",
    "visual",
    "wvp",
)
_BANDS_PC = (
    "aot",
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir09",
    "swir16",
    "swir22",
    "nir08",
    "scl",
    "wvp",
    "visual",
)


def bands_of(dialect: str) -> tuple[str, ...]:
    """Band names in the order of the dialect's assets."""
    return {
        EARTH_SEARCH_C1: _BANDS_C1,
        EARTH_SEARCH_V1: _BANDS_V1,
        PLANETARY_COMPUTER: _BANDS_PC,
    }[dialect]


def resolution_of(dialect: str, band: str) -> int:
    """10, 20 or 60: the resolution class of a band's file."""
    if band in ("aot", "wvp"):
        if dialect == EARTH_SEARCH_C1:
            return 20
        return 60 if (dialect, band) == (EARTH_SEARCH_V1, "aot") else 10
    return 10 if band in _TEN else 60 if band in _SIXTY else 20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What an item says about one of its files."""

    key: str
    """Path below the archive's ``files`` directory, bucket first."""
    size: int
    sha256: str
    """Hex."""


@dataclass(frozen=True, slots=True)
class SceneFacts:
    """One made-up acquisition of one tile, before any catalog describes it."""

    tile: str
    epsg: int
    origin: tuple[float, float]
    """Upper left corner, metres."""
    pixel_size: int
    """Metres, of the 10 m bands."""
    width: int
    """Pixels, of the 10 m bands."""
    seen: datetime
    """When the tile was seen: aware, UTC."""
    orbit: int
    """Relative, 1 to 143."""
    outline: tuple[tuple[float, float], ...]
    """Covered part of the tile: longitude latitude, counter-clockwise, not closed."""
    centroid: tuple[float, float]
    """Longitude latitude."""
    cloud_cover: float
    """Percent of the covered part; so are the next."""
    class_percentages: Mapping[int, float]
    """SCL class → percent of the covered part."""
    nodata_percentage: float
    """Of the tile."""

    @property
    def satellite(self) -> str:
        """``S2A`` or ``S2B``, five days apart in a ten-day cycle."""
        return "S2B" if self.seen.toordinal() // 5 % 2 else "S2A"

    @property
    def platform(self) -> str:
        return f"sentinel-2{self.satellite[-1].lower()}"

    def baseline(self, dialect: str) -> str:
        """Processing baseline in force on the day; Collection 1 has reprocessed what is older."""
        day = f"{self.seen:%Y-%m-%d}"
        since = {"2022-01-25": "04.00", "2022-12-06": "05.09", "2023-12-13": "05.10"}
        fits = [baseline for start, baseline in since.items() if day >= start]
        latest = fits[-1] if fits else "03.01"
        return max(latest, "05.00") if dialect == EARTH_SEARCH_C1 else latest

    @property
    def absolute_orbit(self) -> int:
        """Made up, but growing with time."""
        return 30_000 + (self.seen.toordinal() - 737_000) * 143 // 10

    @property
    def sensing(self) -> datetime:
        """Start of the data take, a few minutes before the tile."""
        return (self.seen - timedelta(seconds=214)).replace(microsecond=0)

    @property
    def strip(self) -> datetime:
        """Start of the data strip."""
        return (self.seen - timedelta(seconds=123)).replace(microsecond=0)

    @property
    def generated(self) -> datetime:
        return self.sensing + timedelta(hours=2, minutes=15, seconds=45)

    @property
    def created(self) -> datetime:
        """When the catalog took the item in, and its files were written."""
        return self.generated + timedelta(hours=2, minutes=21, seconds=7, milliseconds=226)

    @property
    def sun(self) -> tuple[float, float]:
        """Azimuth and elevation, degrees; roughly right for the late morning."""
        days = (self.seen.timetuple().tm_yday - 172) / 365.25
        declination = 23.4 * math.cos(2 * math.pi * days)
        return 165.0 - declination, max(5.0, 87.0 - abs(self.centroid[1] - declination))

    def boa_offset(self, dialect: str) -> int:
        """That the pixels carry: -1000 means DN = 10000 ρ + 1000.

        Earth Search v1 has taken it out of its files (``boa_offset_applied``).
        """
        if dialect == EARTH_SEARCH_V1:
            return 0
        return -1000 if self.baseline(dialect) >= "04.00" else 0

    def bbox(self) -> list[float]:
        longitudes, latitudes = zip(*self.outline, strict=True)
        return [min(longitudes), min(latitudes), max(longitudes), max(latitudes)]

    def item_id(self, dialect: str) -> str:
        if dialect == EARTH_SEARCH_C1:
            return f"{self.satellite}_T{self.tile}_{compact(self.strip)}_L2A"
        if dialect == EARTH_SEARCH_V1:
            return f"{self.satellite}_{self.tile}_{self.seen:%Y%m%d}_0_L2A"
        return (
            f"{self.satellite}_MSIL2A_{compact(self.sensing)}_R{self.orbit:03}_T{self.tile}"
            f"_{compact(self.generated)}"
        )

    def product(self, dialect: str) -> str:
        baseline = self.baseline(dialect).replace(".", "")
        return (
            f"{self.satellite}_MSIL2A_{compact(self.sensing)}_N{baseline}_R{self.orbit:03}"
            f"_T{self.tile}_{compact(self.generated)}.SAFE"
        )

    def directory(self, dialect: str) -> str:
        """Of the scene's files, bucket first, as in the real buckets."""
        zone, letter, square = int(self.tile[:2]), self.tile[2], self.tile[3:]
        when = self.seen
        if dialect == PLANETARY_COMPUTER:
            day = f"{zone:02}/{letter}/{square}/{when:%Y/%m/%d}"
            return f"sentinel2-l2/{day}/{self.product(dialect)}"
        month = f"{zone}/{letter}/{square}/{when.year}/{when.month}"
        if dialect == EARTH_SEARCH_C1:
            root = "e84-earth-search-sentinel-data/sentinel-2-c1-l2a"
        else:
            root = "sentinel-cogs/sentinel-s2-l2a-cogs"
        return f"{root}/{month}/{self.item_id(dialect)}"

    def file_key(self, dialect: str, band: str) -> str:
        """Path of a band's file, bucket first."""
        number = BY_NAME[band].number
        if dialect != PLANETARY_COMPUTER:
            name = f"{number}_20m" if band in ("cloud", "snow") else number
            return f"{self.directory(dialect)}/{name}.tif"
        resolution = resolution_of(dialect, band)
        return (
            f"{self.granule()}/IMG_DATA/R{resolution}m/"
            f"T{self.tile}_{compact(self.sensing)}_{number}_{resolution}m.tif"
        )

    def granule(self) -> str:
        """Directory of the granule in a Planetary Computer product."""
        return (
            f"{self.directory(PLANETARY_COMPUTER)}/GRANULE/"
            f"L2A_T{self.tile}_A{self.absolute_orbit:06}_{compact(self.strip)}"
        )

    def other_files(self, dialect: str) -> dict[str, str]:
        """Asset key → path of the files that hold no band, bucket first."""
        root = self.directory(dialect)
        if dialect == EARTH_SEARCH_C1:
            return {
                "preview": f"{root}/L2A_PVI.tif",
                "granule_metadata": f"{root}/metadata.xml",
                "tileinfo_metadata": f"{root}/tileInfo.json",
                "product_metadata": f"{root}/product_metadata.xml",
                "thumbnail": f"{root}/L2A_PVI.jpg",
            }
        if dialect == EARTH_SEARCH_V1:
            return {
                "granule_metadata": f"{root}/granule_metadata.xml",
                "thumbnail": f"{root}/thumbnail.jpg",
                "tileinfo_metadata": f"{root}/tileinfo_metadata.json",
            }
        pvi = f"T{self.tile}_{compact(self.sensing)}_PVI.tif"
        return {
            "preview": f"{self.granule()}/QI_DATA/{pvi}",
            "safe-manifest": f"{root}/manifest.safe",
            "granule-metadata": f"{self.granule()}/MTD_TL.xml",
            "inspire-metadata": f"{root}/INSPIRE.xml",
            "product-metadata": f"{root}/MTD_MSIL2A.xml",
            "datastrip-metadata": (
                f"{root}/DATASTRIP/DS_MSFT_{compact(self.generated)}_S{compact(self.strip)}"
                "/MTD_DS.xml"
            ),
        }


def compact(moment: datetime) -> str:
    """As in product names: ``20231223T190950``."""
    return f"{moment:%Y%m%dT%H%M%S}"
