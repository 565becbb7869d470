"""Sentinel-2 COG archives as one versioned Zarr cube, with a SQL catalog of what was done.

import catalog
cat = catalog.connect("sqlite:///cogcat.db")
cat.search(tile="10TFR", datetime="2023", max_cloud_cover=20).to_pandas()
cat.cube("10TFR", bands=["red", "nir"], reflectance=True)
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from catalog.errors import CatalogError

if TYPE_CHECKING:
    from catalog.lookup import Catalog, connect
    from catalog.search_result import Scenes
    from catalog.stored_scene import StoredScene

try:
    __version__ = version("cogcat")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0"

__all__ = ["Catalog", "CatalogError", "Scenes", "StoredScene", "__version__", "connect"]
_WHERE = {
    "Catalog": "lookup",
    "Scenes": "search_result",
    "StoredScene": "stored_scene",
    "connect": "lookup",
}


def __getattr__(name: str) -> Any:
    # The read path imports xarray, pandas and icechunk; `cogcat --help` should not wait for them.
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"catalog.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'catalog' has no attribute {name!r}")
