"""A band over any area as one lazy array: each time step a mosaic of the scenes that touch it.

Reading is by blocks of the output (``warp.py``); within a block the scenes of a step are asked in
their order, and no further once no pixel is missing. Nothing is read before it is indexed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from catalog.cube import REFLECTANCE_SCALE, Grid
from catalog.masks import in_classes
from catalog.views import OuterArray, run
from catalog.warp import (
    BLOCK,
    Placement,
    Window,
    block_of,
    blocks,
    placements,
    read_window,
)

THREADS = 8
"""Blocks read at once, each waiting for its chunks."""
_KEPT = 64
"""Windows of a mask kept for the other bands."""


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """One band of one cube at every pixel size, finest first; scenes of the cube share it."""

    grids: tuple[Grid, ...]
    variables: tuple[xr.Variable, ...]
    """Lazy, (time, [band,] y, x), raw integers."""
    nodata: int | float | None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One band of one scene."""

    levels: Levels
    step: int
    """Along time of ``levels``."""
    boa_offset: int

    def read(self, level: int, window: Window) -> NDArray[Any]:
        rows, columns = window
        chosen = self.levels.variables[level].isel(time=self.step, y=rows, x=columns)
        return np.asarray(chosen.values)

    def placements(self, block: GeoBox, resampling: str) -> tuple[Placement, ...]:
        """As ``warp.placements``."""
        return placements(self.levels.grids, block, resampling == "nearest")

    def window(
        self, placement: Placement, block: GeoBox, window: Window, resampling: str
    ) -> tuple[Window, NDArray[Any]] | None:
        """As ``warp.read_window``."""
        return read_window(
            self.read,
            self.levels.grids,
            placement,
            block,
            window,
            resampling=resampling,
            nodata=self.levels.nodata,
        )


class Masks:
    """Which pixels of each scene to leave out; shared by the bands, so that scl is read once.

    Args:
        layers: scl by branch and item id; a scene that is not among them has none, and none of its
            pixels is known to be clear.
        classes: to leave out.
    """

    def __init__(self, layers: dict[tuple[str, str], Layer], classes: Sequence[int]) -> None:
        self.layers, self.classes = layers, tuple(classes)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[Any, NDArray[np.bool_]] = OrderedDict()
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"layers": self.layers, "classes": self.classes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layers, self.classes = state["layers"], state["classes"]
        self._forget()

    def masked(self, scene: tuple[str, str], block: GeoBox, window: Window) -> NDArray[np.bool_]:
        """Over all of ``window``; where scl does not reach, nothing is left out."""
        layer = self.layers.get(scene)
        rows, columns = window
        if layer is None:
            return np.ones((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
        key = (scene, block, rows.start, rows.stop, columns.start, columns.stop)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
        for placement in layer.placements(block, "nearest"):
            found = layer.window(placement, block, window, "nearest")
            if found is not None:
                part, classes = found
                out[_within(part, window)] |= in_classes(classes, self.classes)
        with self._lock:
            self._kept[key] = out
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return out


class MosaicArray(OuterArray):
    """One band over ``grid``: (time, y, x), or (time, band, y, x) of several samples.

    Args:
        grid: the output's.
        steps: the scenes of each time step in their order, as (key, layer); a scene whose layer
            is None has no such band.
        dtype, nodata, samples: of the files.
        resampling: of ``grid.RESAMPLING``.
        masks: None leaves nothing out.
        reflectance: float32 ``(DN + boa_offset) * 0.0001``, each scene by its own offset, after
            resampling; NaN where there is no valid pixel. Else raw integers, ``nodata`` (or 0)
            there.

    Reading raises StoreError as ``arrays.StepsArray`` does.
    """

    def __init__(
        self,
        grid: GeoBox,
        steps: Sequence[Sequence[tuple[tuple[str, str], Layer | None]]],
        *,
        dtype: np.dtype[Any],
        nodata: int | float | None,
        samples: int | None,
        resampling: str,
        masks: Masks | None,
        reflectance: bool,
    ) -> None:
        self.grid, self.steps = grid, tuple(tuple(step) for step in steps)
        self.nodata, self.resampling, self.masks = nodata, resampling, masks
        self.reflectance = reflectance
        self.samples = () if samples is None else (samples,)
        self.shape = (len(self.steps), *self.samples, *grid.shape)
        self.dtype = np.dtype(np.float32) if reflectance else np.dtype(dtype)

    def _read(self, wanted: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        times, rows, columns = wanted[0], wanted[-2], wanted[-1]
        out = np.empty((len(times), *self.samples, len(rows), len(columns)), self.dtype)
        jobs = [(n, block) for n in range(len(times)) for block in blocks(rows, columns)]

        def fill(job: tuple[int, tuple[int, int]]) -> None:
            n, block = job
            down, across = (
                np.flatnonzero(axis // BLOCK == number)
                for axis, number in zip((rows, columns), block, strict=True)
            )
            inside = [
                axis[at] - number * BLOCK
                for axis, at, number in zip((rows, columns), (down, across), block, strict=True)
            ]
            window = tuple(slice(int(side.min()), int(side.max()) + 1) for side in inside)
            pixels = self._mosaic(int(times[n]), block_of(self.grid, block), (window[0], window[1]))
            # Runs are copied as such: by number was a fifth of the CPU of a mosaic.
            from_rows, from_columns = (
                run(side - part.start) for side, part in zip(inside, window, strict=True)
            )
            picked = pixels[..., from_rows, :][..., from_columns]
            to_rows, to_columns = run(down), run(across)
            if isinstance(to_rows, slice) or isinstance(to_columns, slice):
                out[n][..., to_rows, to_columns] = picked
            else:
                out[n][..., to_rows[:, None], to_columns] = picked

        if len(jobs) == 1:
            fill(jobs[0])
        elif jobs:
            with ThreadPoolExecutor(min(THREADS, len(jobs))) as pool:
                list(pool.map(fill, jobs))
        return out[:, wanted[1]] if self.samples else out

    def _mosaic(self, step: int, block: GeoBox, window: Window) -> NDArray[Any]:
        """One step's pixels in ``window`` of ``block``, ([band,] y, x)."""
        size = tuple(side.stop - side.start for side in window)
        fill: Any = np.nan if self.reflectance else self.nodata or 0
        out = np.full((*self.samples, *size), fill, self.dtype)
        untouched = True
        placed = (
            (scene, layer, placement)
            for scene, layer in self.steps[step]
            if layer is not None
            for placement in layer.placements(block, self.resampling)
        )
        for scene, layer, placement in placed:
            missing: Any = True
            wanted: Window | None = window
            if not untouched:
                missing = np.isnan(out) if self.reflectance else out == fill
                # Only the ground around what is missing is read.
                wanted = _around(missing, window)
            if wanted is None:
                break
            found = layer.window(placement, block, wanted, self.resampling)
            if found is None:
                continue
            part, pixels = found
            place_in = (..., *_within(part, window))
            valid: Any = True
            if layer.levels.nodata is not None and not (untouched and fill == layer.levels.nodata):
                valid = pixels != layer.levels.nodata
            if self.masks is not None and np.any(valid):
                masked = self.masks.masked(scene, block, window)
                valid = valid & ~masked[_within(part, window)]
            if self.reflectance:
                pixels = (pixels + np.float32(layer.boa_offset)) * np.float32(REFLECTANCE_SCALE)
            free = missing if untouched else missing[place_in]
            np.copyto(out[place_in], pixels, where=free & valid, casting="same_kind")
            untouched = False
        return out


def _around(missing: NDArray[np.bool_], window: Window) -> Window | None:
    """The smallest part of ``window`` that holds all that is missing; None where nothing is."""
    flat = missing.any(axis=0) if missing.ndim == 3 else missing
    rows = np.flatnonzero(flat.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(flat[rows[0] : rows[-1] + 1].any(axis=0))
    down, across = (
        slice(side.start + int(found[0]), side.start + int(found[-1]) + 1)
        for side, found in zip(window, (rows, columns), strict=True)
    )
    return down, across


def _within(part: Window, window: Window) -> Window:
    """``part`` of a block, counted from ``window`` of it."""
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(part, window, strict=True)
    )
    return rows, columns
