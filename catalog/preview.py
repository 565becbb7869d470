"""A quick look at one scene as a PNG: true colour, from the overview nearest the size asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from imagecodecs import png_encode
from numpy.typing import NDArray

from catalog.arrays import resolutions
from catalog.errors import NotFoundError, UsageError
from catalog.stored_scene import StoredScene

WIDTH = 700
"""Pixels: the coarsest overview at least this wide is read."""
BRIGHT = 0.3
"""Reflectance shown as white where there is no ``visual``."""


def preview(scene: StoredScene) -> NDArray[np.uint8]:
    """True colour of ``scene``: uint8 of shape (rows, columns, 3), red green blue; nodata black.

    Raises:
        NotFoundError: the scene has neither ``visual`` nor red, green and blue.
    """
    sizes = resolutions(scene.cubes())
    for wanted in (["visual"], ["red", "green", "blue"]):
        having = [size for size, bands in sizes.items() if set(wanted) <= set(bands)]
        if not having:
            continue
        dataset = None
        for size in reversed(having):
            dataset = scene.open(resolution=size, bands=wanted, reflectance=wanted != ["visual"])
            if dataset.sizes["x"] >= WIDTH:
                break
        assert dataset is not None
        if wanted == ["visual"]:
            image: NDArray[np.uint8] = dataset["visual"].transpose("y", "x", "band").to_numpy()
            return image
        layers = np.stack([dataset[band].to_numpy() for band in wanted], axis=-1)
        scaled = np.nan_to_num(np.clip(layers / BRIGHT, 0, 1)) * 255
        return scaled.astype(np.uint8)
    raise NotFoundError(f"{scene.id}: neither visual nor red, green and blue are indexed")


def write_preview(scene: StoredScene, path: Path) -> None:
    """``preview`` as a PNG file.

    Raises:
        UsageError: the file cannot be written, or is to be of another kind.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"cannot write {path}: a preview is a PNG: name it so")
    image = preview(scene)
    try:
        path.write_bytes(png_encode(np.ascontiguousarray(image)))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
