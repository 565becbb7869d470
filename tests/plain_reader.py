"""Someone who found the store: xarray, zarr, icechunk and virtual-tiff, nothing of cogcat.

python plain_reader.py REPOSITORY CONTAINER_PREFIX OUTPUT BRANCH...
"""

import json
import sys
from pathlib import Path

import icechunk
import numpy as np
import virtual_tiff.codecs  # noqa: F401
import xarray as xr
import zarr
from zarr import registry

# As where cogcat is not installed: its entry points are not there.
for known in registry._codec_registries.values():
    known.lazy_load_list[:] = [e for e in known.lazy_load_list if "catalog." not in e.value]

location, prefix, output, *branches = sys.argv[1:]
icechunk.set_logs_filter("error")
repository = icechunk.Repository.open(
    icechunk.local_filesystem_storage(location),
    authorize_virtual_chunk_access={prefix: icechunk.credentials.LocalFileSystemAccess},
)
documents = {}
for branch in branches:
    store = repository.readonly_session(branch).store
    documents[branch] = {}
    for group in zarr.open_group(store, mode="r").group_keys():
        dataset = xr.open_zarr(store, group=group, consolidated=False, mask_and_scale=False)
        documents[branch][group] = {
            name: {
                "dims": variable.dims,
                "attributes": variable.attrs,
                "grid_mapping": variable.encoding.get("grid_mapping")
                or variable.attrs.get("grid_mapping"),
            }
            for name, variable in dataset.variables.items()
        }
        arrays = {
            name: variable.values.astype(object) if name == "scene" else variable.values
            for name, variable in dataset.variables.items()
        }
        np.savez(Path(output) / f"{branch}.{group}.npz", **arrays)
assert "catalog" not in sys.modules
Path(output, "documents.json").write_text(json.dumps(documents, default=str))
