"""One scene's pixels on one block of another grid: which level, which window, then GDAL's warp.

The output grid is cut into blocks of ``BLOCK`` pixels from its upper left corner. A window of a
block gives the pixels that the whole block would have there, however the reader cuts it: GDAL
interpolates its transformation along each row of what it is given, so rows are always warped
over the block's whole width, and the width of kernels is said, not guessed from the window.
The rules are those of odc-stac: the overview is the coarsest that is not coarser than the output,
a source on the output's own grid is copied, and anything else is warped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.cube import Grid
from catalog.grid import geobox_of
from catalog.seam import outlines, seam_of, transformer

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

BLOCK = 2048
"""Pixels; odc-stac's own for arrays that are not chunked."""
_WARP_THREADS = os.cpu_count() or 1
"""Of GDAL, in one warp: warps take turns. Pixels are the same with any number."""
_MEMORY_MB = 4096
"""Far above any block: GDAL would cut rows in two and interpolate each half."""
_RADIUS = {"nearest": 1, "bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}
_ALIGNED = 1e-6
"""Pixels."""
_SAMPLES = 22
"""Points along each side of a window, as GDAL has them."""

_WARPING = Lock()
"""rasterio silences a warning of its own for the whole process while it warps: by turns, or it
would be seen, and the filters be left as another thread had them."""

Window = tuple[slice, slice]
"""Rows, columns; both ends within the array."""
Reader = Callable[[int, Window], NDArray[Any]]
"""(number of the level, window of it) → pixels ([band,] y, x) as stored."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a source with levels (finest first) fills one block."""

    level: int
    """To read from."""
    reach: Window
    """Of the block, that the source may reach."""
    offset: tuple[int, int] | None
    """What to add to a row and column of the block for those of the level; None: warp."""
    scale: tuple[float, float]
    """Pixels of the level for one of the block, along x and y: the width of kernels. As GDAL takes
    it for a whole block: from the sizes of the reach and of the window below it."""
    shift: float = 0.0
    """Of a block beyond the antimeridian: what to add to its x to come where it lies."""


def blocks(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """(row, column) of every block that holds any of the pixels ``rows`` × ``columns``."""
    for row in np.unique(rows // BLOCK).tolist():
        for column in np.unique(columns // BLOCK).tolist():
            yield row, column


def block_of(grid: GeoBox, block: tuple[int, int]) -> GeoBox:
    """One block of ``grid``; those at its lower and right edge are smaller."""
    rows, columns = (
        slice(number * BLOCK, min((number + 1) * BLOCK, size))
        for number, size in zip(block, grid.shape, strict=True)
    )
    return grid[rows, columns]


@lru_cache(4096)
def place(levels: tuple[Grid, ...], block: GeoBox, nearest: bool) -> Placement | None:
    """Where a source falls in ``block``; None where it does not reach it.

    Args:
        levels: of one band, finest first, all over the same ground.
        nearest: a shift of less than a pixel is then no reason to warp.
    """
    from odc.geo.overlap import compute_reproject_roi

    boxes = [geobox_of(grid) for grid in levels]
    # odc-geo forgives shifts of 0.9 and 0.05 pixels so; a scale must be exact.
    with np.errstate(invalid="ignore"):  # where part of the source has no coordinates there
        info = compute_reproject_roi(boxes[0], block, ttol=0.9 if nearest else 0.05, stol=1e-6)
    reach = _window(info.roi_dst)
    if _is_empty(reach) or _is_empty(_window(info.roi_src)):
        return None
    level = 0
    if info.read_shrink > 1:
        level = _level(boxes, info.read_shrink)
    elif info.paste_ok:
        offset = tuple(
            source.start - target.start
            for source, target in zip(_window(info.roi_src), reach, strict=True)
        )
        return Placement(0, reach, (offset[0], offset[1]), (1.0, 1.0))
    aligned = _aligned(boxes[level], block)
    if aligned is not None:
        rows, columns = (
            slice(max(part.start, -shift), min(part.stop, size - shift))
            for part, shift, size in zip(reach, aligned, boxes[level].shape, strict=True)
        )
        return Placement(level, (rows, columns), aligned, (1.0, 1.0))
    return Placement(level, reach, None, _scale(boxes[level], block, reach))


@lru_cache(4096)
def placements(levels: tuple[Grid, ...], block: GeoBox, nearest: bool) -> tuple[Placement, ...]:
    """Every way in which a source falls in ``block``: once, as ``place`` has it, or not at all; and
    where either lies across the antimeridian of a CRS that jumps there, once on each side."""
    seam = seam_of(str(block.crs))
    pieces = outlines(levels[0]) if seam is not None else ()
    turns = {0}
    columns = np.zeros(block.shape[1], np.int64)
    if seam is not None and seam.period is not None:
        # A grid that was given may run westwards.
        step, start = block.transform.a, block.transform.c
        columns = seam.turns(start + step * (np.arange(block.shape[1]) + 0.5))
        turns = set(columns.tolist())
    if turns == {0} and len(pieces) < 2:
        found = place(levels, block, nearest)
        return () if found is None else (found,)
    assert seam is not None
    every: list[Placement] = []
    for turn in sorted(turns):
        shift = -turn * (seam.period or 0.0)
        there = _moved(block, shift)
        here = np.flatnonzero(columns == turn)
        within = (slice(0, block.shape[0]), slice(int(here[0]), int(here[-1]) + 1))
        if len(pieces) < 2:
            one = place(levels, there, nearest)
            wholes = [] if one is None else [one]
        else:
            wholes = [_place_piece(levels, there, piece) for piece in pieces]
        for whole in wholes:
            reach = _overlap(whole.reach, within)
            if not _is_empty(reach):
                every.append(replace(whole, reach=reach, shift=shift))
    return tuple(every)


def _place_piece(levels: tuple[Grid, ...], block: GeoBox, piece: NDArray[np.float64]) -> Placement:
    """One side of a source that lies across the antimeridian: always warped.

    Args:
        piece: its outline, degrees, within ±180.
    """
    edge = np.column_stack(transformer("EPSG:4326", str(block.crs)).transform(*piece.T))
    edge = edge[np.isfinite(edge).all(axis=1)]
    pixels = np.column_stack(~block.transform @ tuple(edge.T)) if len(edge) else np.zeros((1, 2))
    columns, rows = (
        slice(int(np.clip(low - 2, 0, size)), int(np.clip(high + 3, 0, size)))
        for low, high, size in zip(
            np.floor(pixels.min(axis=0)),
            np.floor(pixels.max(axis=0)),
            block.shape[::-1],
            strict=True,
        )
    )
    reach = (rows, columns)
    if _is_empty(reach):
        return Placement(0, reach, None, (1.0, 1.0))
    boxes = [geobox_of(grid) for grid in levels]
    level = _level(boxes, min(_scale(boxes[0], block, reach)) + _ALIGNED)
    return Placement(level, reach, None, _scale(boxes[level], block, reach))


def _level(boxes: Sequence[GeoBox], shrink: float) -> int:
    """The coarsest that is not coarser than ``shrink`` pixels of the finest."""
    shrinks = [round(box.resolution.x / boxes[0].resolution.x) for box in boxes]
    return max(n for n, found in enumerate(shrinks) if n == 0 or found <= shrink)


def _moved(block: GeoBox, shift: float) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    if not shift:
        return block
    return GeoBox(block.shape, Affine.translation(shift, 0) @ block.transform, block.crs)


def read_window(
    read: Reader,
    levels: Sequence[Grid],
    placement: Placement,
    block: GeoBox,
    window: Window,
    *,
    resampling: str,
    nodata: float | None,
) -> tuple[Window, NDArray[Any]] | None:
    """The source's pixels in ``window`` of ``block``.

    Args:
        window: of the block; at least one pixel.
        resampling: of ``grid.RESAMPLING``.
        nodata: of the source; such pixels take no part in any kernel. None: all are valid.

    Returns:
        The part of ``window`` that the source reaches, in the block's own rows and columns, and its
        pixels ([band,] y, x) in the source's dtype, ``nodata`` (or 0) where it has none. None where
        it reaches nothing.
    """
    part = _overlap(window, placement.reach)
    if _is_empty(part):
        return None
    block = _moved(block, placement.shift)
    if placement.offset is not None:
        rows, columns = (
            slice(side.start + shift, side.stop + shift)
            for side, shift in zip(part, placement.offset, strict=True)
        )
        return part, read(placement.level, (rows, columns))
    source = geobox_of(levels[placement.level])
    radius = _RADIUS.get(resampling, 1) * max(1.0, *placement.scale)
    needed = _source_window(source, block[part], math.ceil(radius) + 2)
    if _is_empty(needed):
        return None
    pixels = np.ascontiguousarray(read(placement.level, needed))
    warped = _warp(
        pixels,
        source[needed],
        block[part[0], placement.reach[1]],
        placement.scale,
        resampling,
        nodata,
    )
    first = part[1].start - placement.reach[1].start
    return part, warped[..., first : first + part[1].stop - part[1].start]


def _warp(
    pixels: NDArray[Any],
    source: GeoBox,
    target: GeoBox,
    scale: tuple[float, float],
    resampling: str,
    nodata: float | None,
) -> NDArray[Any]:
    from rasterio import Env
    from rasterio.session import DummySession
    from rasterio.warp import Resampling, reproject

    out = np.full(
        (*pixels.shape[:-2], *target.shape), 0 if nodata is None else nodata, pixels.dtype
    )
    options: dict[str, Any] = {"SRC_FILL_RATIO_HEURISTICS": "NO"}
    if resampling == "sum":
        # It adds up what lies below a pixel, whose outline must not depend on the window then.
        options["tolerance"] = 0.0
    if resampling in _RADIUS and resampling != "nearest":
        options |= {"XSCALE": _kernel(scale[0]), "YSCALE": _kernel(scale[1])}
    # Memory needs no credentials: else, where there are some of AWS, rasterio makes a session of
    # boto3's. (It makes two more for the arrays, which nothing here can keep it from.)
    with _WARPING, Env(DummySession()):
        reproject(
            pixels,
            out,
            src_transform=source.transform,
            src_crs=str(source.crs),
            src_nodata=nodata,
            dst_transform=target.transform,
            dst_crs=str(target.crs),
            # Without nodata 0 is a value: with it GDAL would make 1 of it.
            dst_nodata=nodata,
            init_dest_nodata=nodata is not None,
            resampling=Resampling[resampling],
            warp_mem_limit=_MEMORY_MB,
            num_threads=_WARP_THREADS,
            **options,
        )
    return out


def _kernel(scale: float) -> float:
    """What GDAL calls a scale: pixels of the output for one of the source, and whole fractions
    where it is close to one, as GDAL takes them."""
    whole = round(scale)
    return 1 / whole if whole > 1 and abs(scale - whole) < 0.05 else 1 / scale


def _scale(source: GeoBox, block: GeoBox, reach: Window) -> tuple[float, float]:
    rows, columns = _source_window(source, block[reach], 0)
    return (
        max(1, columns.stop - columns.start) / (reach[1].stop - reach[1].start),
        max(1, rows.stop - rows.start) / (reach[0].stop - reach[0].start),
    )


def _aligned(source: GeoBox, block: GeoBox) -> tuple[int, int] | None:
    """Rows and columns from a pixel of the block to the source's, where their pixels are the
    same."""
    if source.crs != block.crs:
        return None
    there = ~source.transform @ block.transform
    a, b, c, d, e, f = there[:6]
    if max(abs(a - 1), abs(e - 1)) * BLOCK > _ALIGNED or max(abs(b), abs(d)) > 0:
        return None
    if max(abs(c - round(c)), abs(f - round(f))) > _ALIGNED:
        return None
    return round(f), round(c)


def _source_window(source: GeoBox, target: GeoBox, padding: int) -> Window:
    """The window of ``source`` below ``target``, padded; all of it where PROJ has no answer."""
    from odc.geo.geobox import gbox_boundary
    from odc.geo.math import stack_xy, unstack_xy
    from odc.geo.overlap import native_pix_transform

    edge = unstack_xy(gbox_boundary(target, _SAMPLES))
    points = np.asarray(stack_xy(native_pix_transform(source, target).back(edge)), np.float64)
    height, width = source.shape
    if not np.isfinite(points).all():
        return slice(0, height), slice(0, width)
    low = np.floor(points.min(axis=0) + _ALIGNED) - padding
    high = np.ceil(points.max(axis=0) - _ALIGNED) + padding
    columns, rows = (
        slice(int(np.clip(first, 0, size)), int(np.clip(last, 0, size)))
        for first, last, size in zip(low, high, (width, height), strict=True)
    )
    return rows, columns


def _overlap(one: Window, other: Window) -> Window:
    rows, columns = (
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return rows, columns


def _is_empty(window: Window) -> bool:
    return any(side.stop <= side.start for side in window)


def _window(roi: Any) -> Window:
    rows, columns = roi
    return slice(int(rows.start), int(rows.stop)), slice(int(columns.start), int(columns.stop))
