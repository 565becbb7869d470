"""``dataset.cogcat``: what xarray itself cannot do with a dataset of scenes."""

from __future__ import annotations

import xarray as xr
from zarr.core.sync import sync


@xr.register_dataset_accessor("cogcat")
class CogcatAccessor:
    """Of any dataset; made for those of ``Catalog.cube`` and ``Scene.open``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def load(self) -> xr.Dataset:
        """``dataset.load()`` with all variables on their way at once, and not one after the other:
        a window of four bands waits once for the store, and not four times.

        Returns the dataset itself, loaded. Raises what reading its arrays does.
        """
        sync(self._dataset.load_async())
        return self._dataset
