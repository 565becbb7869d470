"""Lazy views of lazy arrays: several along time as one, and with classes of scl left out.

Nothing is read before a view is indexed, and then only what the index needs of the arrays below.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from catalog.masks import in_classes


class OuterArray(BackendArray):
    """An array that is indexed along each axis on its own; a subclass has ``shape``, ``dtype`` and
    ``_read``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        # xarray 2026.9 cannot take apart a slice that is empty and runs backwards.
        parts = tuple(
            slice(0) if isinstance(part, slice) and not range(size)[part] else part
            for part, size in zip(key.tuple, self.shape, strict=True)
        )
        return indexing.explicit_indexing_adapter(
            type(key)(parts), self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        # Not asyncio's own threads: the chunks that this one waits for are decoded in them.
        with ThreadPoolExecutor(1) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, self.__getitem__, key)

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        wanted = tuple(
            np.atleast_1d(np.arange(size)[part]) for size, part in zip(self.shape, key, strict=True)
        )
        scalars = tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in key)
        return self._read(wanted)[scalars]

    @abstractmethod
    def _read(self, wanted: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        """Pixels at the outer product of the positions wanted, one array along each axis."""


class JoinedArray(OuterArray):
    """Steps of several lazy arrays as one array along time, without a copy.

    Args:
        parts: (time, …), alike but for time; one that is None reads as ``fill``.
        order: (number of the part, step within it) of each step.
        like: of their shape and dtype, where all are None.
    """

    def __init__(
        self,
        parts: Sequence[xr.Variable | None],
        order: Sequence[tuple[int, int]],
        fill: Any,
        like: xr.Variable | None = None,
    ) -> None:
        self.parts, self.order, self.fill = tuple(parts), tuple(order), fill
        first = like if like is not None else next(part for part in parts if part is not None)
        self.shape = (len(self.order), *first.shape[1:])
        self.dtype = first.dtype

    def _read(self, wanted: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        out = np.full([len(axis) for axis in wanted], self.fill, self.dtype)
        places = [self.order[step] for step in wanted[0]]
        for number in sorted({number for number, _ in places}):
            part = self.parts[number]
            if part is None:
                continue
            at = [n for n, place in enumerate(places) if place[0] == number]
            steps = np.array([places[n][1] for n in at])
            out[at] = _outer_read(part, (steps, *wanted[1:]))
        return out


class MaskedArray(OuterArray):
    """A lazy array with ``fill`` where the scene classification is one of ``classes``.

    Args:
        pixels: (time, [band,] y, x).
        scl: (time, y, x) of the same steps; may have pixels of another size.
        rows, columns: for each row and column of ``pixels`` the one of ``scl`` at its centre.
        unknown: steps that have no scl: all their pixels are masked.
    """

    def __init__(
        self,
        pixels: xr.Variable,
        scl: xr.Variable,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        classes: Sequence[int],
        fill: Any,
        unknown: NDArray[np.bool_] | None = None,
    ) -> None:
        self.pixels, self.scl, self.rows, self.columns = pixels, scl, rows, columns
        self.unknown = unknown
        self.classes, self.fill = tuple(classes), fill
        self.shape, self.dtype = pixels.shape, pixels.dtype

    def _read(self, wanted: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
        out = _outer_read(self.pixels, wanted)
        rows, columns = self.rows[wanted[-2]], self.columns[wanted[-1]]
        scl = _outer_read(self.scl, (wanted[0], rows, columns))
        masked = in_classes(scl, self.classes)
        if self.unknown is not None:
            masked |= self.unknown[wanted[0]][:, np.newaxis, np.newaxis]
        if out.ndim == 4:
            masked = masked[:, np.newaxis]
        return np.where(masked, np.asarray(self.fill, out.dtype), out)


def masked(
    dataset: xr.Dataset,
    scl: xr.DataArray,
    classes: Sequence[int],
    resolution: float,
    unknown: NDArray[np.bool_] | None = None,
) -> xr.Dataset:
    """``dataset`` with nodata (NaN in float bands) where ``scl`` is one of ``classes``; lazy.

    Args:
        dataset: variables (time, [band,] y, x).
        scl: (time, y, x) of the same steps and ground; its nearest pixel counts.
        resolution: pixel size of ``scl``, metres.
        unknown: steps that have no scl: all their pixels are left out.
    """
    rows, columns = (
        nearest(dataset[axis].values, scl[axis].values, sign)
        for axis, sign in (("y", -resolution), ("x", resolution))
    )
    for name, band in dataset.data_vars.items():
        fill = np.nan if band.dtype.kind == "f" else band.attrs.get("_FillValue", 0)
        view = MaskedArray(band.variable, scl.variable, rows, columns, classes, fill, unknown)
        dataset[name] = lazy(view, band.variable)
    return dataset


def emptied(dataset: xr.Dataset) -> xr.Dataset:
    """``dataset`` with nodata, or NaN, in place of every pixel; lazy."""
    for name, band in dataset.data_vars.items():
        fill = np.nan if band.dtype.kind == "f" else band.attrs.get("_FillValue", 0)
        steps = [(0, step) for step in range(band.shape[0])]
        dataset[name] = lazy(JoinedArray([None], steps, fill, like=band.variable), band.variable)
    return dataset


def nearest(
    centres: NDArray[np.float64], others: NDArray[np.float64], size: float
) -> NDArray[np.int64]:
    """For each of ``centres`` the number of the pixel of ``others`` it lies in.

    Args:
        size: from one of ``others`` to the next (negative where they descend); they are evenly
            spaced, at their own spacing if there are two or more.
    """
    if len(others) > 1:
        size = float(others[-1] - others[0]) / (len(others) - 1)
    # GDAL's way with a centre that lies on an edge.
    numbers = np.floor((centres - others[0]) / size + 0.5 + 1e-10)
    return np.clip(numbers, 0, len(others) - 1).astype(np.int64)


def lazy(array: BackendArray, like: xr.Variable) -> xr.Variable:
    """A variable of ``array`` with the dimensions, attributes and encoding of ``like``."""
    data = indexing.LazilyIndexedArray(array)
    return xr.Variable(like.dims, data, like.attrs, like.encoding)


def _outer_read(variable: xr.Variable, key: tuple[NDArray[np.int64], ...]) -> NDArray[Any]:
    # A run is asked for as a slice: arrays below then read whole chunks without picking.
    return np.asarray(variable[tuple(map(run, key))].values)


def run(numbers: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """``numbers`` as a slice, where each is one more than the one before."""
    if len(numbers) and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers
