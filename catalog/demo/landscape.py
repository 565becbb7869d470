"""One plausible Sentinel-2 scene for a tile and a day: synthetic pixels, made from seeded noise.

Fields, forest, a river, terrain and snow belong to the tile; the season decides
how green they are; clouds, their shadows and the edge of the swath belong to the
day. Everything is a function of the place in the tile, sampled at the pixel
centres of each resolution, so bands of 10, 20 and 60 m show the same ground.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

# Surface reflectance (0 to 1) of soil, vegetation, water, snow and cloud in each band.
_SPECTRA: dict[str, tuple[float, float, float, float, float]] = {
    "coastal": (0.080, 0.020, 0.060, 0.90, 0.74),
    "blue": (0.095, 0.025, 0.055, 0.92, 0.74),
    "green": (0.125, 0.058, 0.045, 0.92, 0.75),
    "red": (0.160, 0.032, 0.030, 0.91, 0.76),
    "rededge1": (0.180, 0.090, 0.022, 0.90, 0.77),
    "rededge2": (0.200, 0.280, 0.016, 0.88, 0.78),
    "rededge3": (0.215, 0.360, 0.014, 0.87, 0.79),
    "nir": (0.230, 0.400, 0.012, 0.86, 0.79),
    "nir08": (0.240, 0.420, 0.011, 0.84, 0.79),
    "nir09": (0.245, 0.420, 0.010, 0.80, 0.70),
    "swir16": (0.300, 0.180, 0.006, 0.12, 0.52),
    "swir22": (0.250, 0.080, 0.004, 0.09, 0.42),
}
_SOIL, _VEGETATION, _WATER, _SNOW, _CLOUD = range(5)


@dataclass(frozen=True, slots=True)
class SwathEdge:
    """Half-plane that the swath covers: ``east * u + south * v <= limit``.

    ``u`` runs from 0 at the tile's western edge to 1 at its eastern, ``v`` from 0
    at the northern to 1 at the southern.
    """

    east: float
    south: float
    limit: float

    def outline(self) -> list[tuple[float, float]]:
        """Corners ``(u, v)`` of the covered part of the tile, counter-clockwise on a map."""
        corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)]
        kept: list[tuple[float, float]] = []
        for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
            before = self.limit - self.east * u0 - self.south * v0
            after = self.limit - self.east * u1 - self.south * v1
            if before >= 0:
                kept.append((u0, v0))
            if before * after < 0:
                part = before / (before - after)
                kept.append((u0 + part * (u1 - u0), v0 + part * (v1 - v0)))
        return kept


WHOLE_TILE = SwathEdge(0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What stays the same from day to day, each ``(y, x)`` float32 on one resolution's grid."""

    u: Float
    """(1, x)"""
    v: Float
    """(y, 1)"""
    evergreen: Float
    amplitude: Float
    """Of the season, 0 to 1."""
    peak: Float
    """Day of the year when greenest."""
    brightness: Float
    """Of soil, terrain shade and fine texture together; a factor around 1."""
    height: Float
    water: Float
    """0 or 1."""


class Landscape:
    """The ground of one tile.

    Args:
        tile: its name seeds the noise, so that neighbours differ.
        width: pixels of the 10 m bands, a multiple of 6; 20 m bands are half as wide.
        seed: another seed is another landscape.
    """

    def __init__(self, tile: str, width: int, seed: int) -> None:
        if width % 6:
            raise ValueError(f"width {width} is not a multiple of 6: no grid for 20 and 60 m")
        self._tile, self._width, self._seed = tile, width, seed
        self._grounds = {resolution: self._ground(resolution) for resolution in (10, 20, 60)}

    def size(self, resolution: int) -> int:
        """Width and height in pixels of the bands of 10, 20 or 60 m."""
        return self._width * 10 // resolution

    def scene(
        self,
        day: date,
        *,
        cloud_cover: float,
        edge: SwathEdge,
        boa_offset: int,
        resolutions: Mapping[str, int],
    ) -> dict[str, NDArray[Any]]:
        """Arrays of one day, as the product holds them; 0 is nodata in all.

        Args:
            cloud_cover: percent of the tile under cloud of any kind.
            boa_offset: as in ``Scene.boa_offset``: -1000 makes DN = 10000 ρ + 1000.
            resolutions: band name → 10, 20 or 60, for the bands wanted.

        Returns:
            ``(y, x)`` uint16 for reflectance, aot and wvp, uint8 for scl, cloud and
            snow; ``(band=3, y, x)`` uint8 for visual.
        """
        views = {
            resolution: self._view(day, cloud_cover, edge, resolution)
            for resolution in sorted({*resolutions.values(), 20})
        }
        arrays: dict[str, NDArray[Any]] = {}
        for band, resolution in resolutions.items():
            view = views[resolution]
            if band in _SPECTRA:
                counts = np.rint(view.reflectance(band) * 10_000) - boa_offset
                arrays[band] = np.where(view.valid, counts.clip(1, 65_535), 0).astype(np.uint16)
            elif band == "visual":
                colours = [view.reflectance(name) for name in ("red", "green", "blue")]
                shown = np.rint(np.stack(colours) * (255 / 0.3)).clip(1, 255)
                arrays[band] = np.where(view.valid, shown, 0).astype(np.uint8)
            elif band == "scl":
                arrays[band] = view.classes()
            elif band == "cloud":
                arrays[band] = np.where(view.valid, np.rint(view.opacity * 100), 0).astype(np.uint8)
            elif band == "snow":
                arrays[band] = np.where(view.valid, np.rint(view.snow * 100), 0).astype(np.uint8)
            elif band in ("aot", "wvp"):
                base, height = (120, 40) if band == "aot" else (1_400, -500)
                counts = np.rint(base + height * view.ground.height).clip(1, 65_535)
                arrays[band] = np.where(view.valid, counts, 0).astype(np.uint16)
            else:
                raise ValueError(f"no pixels for band {band!r}")
        return arrays

    def _ground(self, resolution: int) -> _Ground:
        n = self.size(resolution)
        rng = self._rng("ground")
        height = _smooth(rng, n, (3, 6, 12, 24))
        river = _smooth(rng, n, (2, 5, 10))
        woods = _smooth(rng, n, (5, 10, 20, 40))
        centres = ((np.arange(n) + 0.5) / n).astype(np.float32)
        u, v = centres[np.newaxis, :], centres[:, np.newaxis]
        # Parcels: a brick pattern, turned a little; each brick draws its own crop.
        along, across = 14 * (u * 0.95 + v * 0.3), 22 * (v * 0.95 - u * 0.3)
        row = np.floor(across).astype(np.int64) % 64
        shift = rng.uniform(0, 1, 64).astype(np.float32)
        column = np.floor(along + shift[row]).astype(np.int64) % 64
        crop = rng.uniform(0, 1, (4, 64, 64)).astype(np.float32)
        wood, water = woods > 0.6, np.abs(river) < 0.05
        texture = self._rng(f"texture {resolution}").normal(0, 0.006, (n, n)).astype(np.float32)
        shade = np.clip(1 + np.diff(height, axis=1, prepend=height[:, :1]) * n / 60, 0.6, 1.3)
        return _Ground(
            u=u,
            v=v,
            evergreen=np.where(wood, np.float32(0.6), 0.08 + 0.12 * crop[0, row, column]),
            amplitude=np.where(wood, np.float32(0.15), 0.2 + 0.6 * crop[1, row, column]),
            peak=np.where(wood, np.float32(180), 130 + 90 * crop[2, row, column]),
            brightness=shade * (0.8 + 0.4 * crop[3, row, column]) + texture,
            height=height,
            water=water.astype(np.float32),
        )

    def _view(self, day: date, cloud_cover: float, edge: SwathEdge, resolution: int) -> _View:
        ground = self._grounds[resolution]
        n = self.size(resolution)
        key = f"clouds {day}"
        clouds = _smooth(self._rng(key), n, (4, 8, 16, 32))
        # Of one grid for all resolutions: a pixel is cloudy in each or in none.
        coarse = _smooth(self._rng(key), self.size(60), (4, 8, 16, 32))
        limit = np.quantile(coarse, 1 - cloud_cover / 100) if cloud_cover > 0 else np.inf
        opacity = np.clip((clouds - limit) / 0.35, 0, 1).astype(np.float32)
        cast = max(1, n // 40)
        shadow = np.roll(opacity, (-cast, cast), axis=(0, 1)) * (opacity == 0)
        day_of_year = day.timetuple().tm_yday
        season = np.exp(-(((day_of_year - ground.peak) / 55) ** 2))
        winter = math.cos(2 * math.pi * (day_of_year - 15) / 365)
        return _View(
            ground=ground,
            green=ground.evergreen + ground.amplitude * season * (1 - ground.evergreen),
            snow=np.clip((ground.height - 2.1 + 1.1 * winter) * 3, 0, 1) * (1 - ground.water),
            cloudy=clouds > limit,
            opacity=opacity,
            shadow=shadow,
            valid=edge.east * ground.u + edge.south * ground.v <= edge.limit,
        )

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(f"{self._tile} {purpose}".encode())])


@dataclass(frozen=True, slots=True)
class _View:
    """One day on one resolution's grid, each ``(y, x)``."""

    ground: _Ground
    green: Float
    """Part covered by vegetation, 0 to 1; the next three likewise."""
    snow: Float
    opacity: Float
    shadow: Float
    cloudy: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    """False outside the swath; broadcasts against the others."""

    def reflectance(self, band: str) -> Float:
        spectrum = [np.float32(value) for value in _SPECTRA[band]]
        ground = self.ground
        land = spectrum[_SOIL] + (spectrum[_VEGETATION] - spectrum[_SOIL]) * self.green
        land = land * ground.brightness
        land += (spectrum[_SNOW] - land) * self.snow
        land += (spectrum[_WATER] - land) * ground.water
        land *= 1 - 0.6 * self.shadow
        land += (spectrum[_CLOUD] - land) * self.opacity
        return land

    def classes(self) -> NDArray[np.uint8]:
        """The scene classification (SCL) of the product specification, 0 to 11."""
        classes = np.where(self.green > 0.45, 4, 5)
        classes[self.ground.brightness < 0.62] = 2
        classes[self.ground.water > 0] = 6
        classes[self.snow > 0.5] = 11
        classes[self.shadow > 0.3] = 3
        classes[self.cloudy] = 10
        classes[self.opacity > 0.3] = 8
        classes[self.opacity > 0.7] = 9
        return np.where(self.valid, classes, 0).astype(np.uint8)


def _smooth(rng: np.random.Generator, n: int, octaves: tuple[int, ...]) -> Float:
    """Noise ``(n, n)`` around 0 with a spread near 1: cubic splines through random knots.

    The same generator state gives the same function of place for every ``n``.
    """
    total = np.zeros((n, n), np.float32)
    for octave, cells in enumerate(octaves):
        knots = rng.normal(0, 2 * 0.5**octave, (cells + 3, cells + 3)).astype(np.float32)
        position = (np.arange(n) + 0.5) / n * cells
        first = np.floor(position).astype(int)
        t = position - first
        weights = np.zeros((n, cells + 3), np.float32)
        rows = np.arange(n)
        weights[rows, first] = (1 - t) ** 3 / 6
        weights[rows, first + 1] = (3 * t**3 - 6 * t**2 + 4) / 6
        weights[rows, first + 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
        weights[rows, first + 3] = t**3 / 6
        total += weights @ knots @ weights.T
    return total
