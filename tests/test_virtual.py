"""A scene as VirtualiZarr's own references: those its files have, fit for kerchunk."""

from __future__ import annotations

from typing import Any

import pytest
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from stacks import DATES, Stack
from virtual_tiff import VirtualTIFF

pytest_plugins = ["stacks"]


def the_item(stack: Stack) -> str:
    days = DATES[0].replace("-", "")
    return next(str(i["id"]) for i in stack.items if "10TFR" in i["id"] and days in i["id"])


def test_references_are_those_of_the_file_itself(stack: Stack) -> None:
    stack.crawl(bands=["red", "scl", "visual"], tiles=["10TFR"], datetime=DATES[0])
    with stack.connect() as cat:
        scene = cat.scene(the_item(stack))
        virtual = scene.virtual(resolution=20, bands=["red", "scl"])
        visual = scene.virtual(resolution=10, bands=["visual"])
        hrefs = {band: asset.href for band, asset in scene.assets.items()}
    assert virtual.attrs["cogcat_snapshot"] == scene.snapshot_id
    archive = stack.server.archive
    for band, level in (("red", "1"), ("scl", "0")):
        path = archive.path(hrefs[band].replace(stack.server.url, archive.base_url))
        registry = ObjectStoreRegistry({"file://": LocalStore()})
        parsed = VirtualTIFF(ifd_layout="nested")(f"file://{path}", registry)
        theirs = parsed._group.groups[level].arrays[level]
        ours: Any = virtual[band].variable._data
        assert ours.shape == theirs.shape
        assert ours.metadata.chunk_grid == theirs.metadata.chunk_grid
        ours_codecs, theirs_codecs = (
            [codec.to_dict() for codec in array.metadata.codecs] for array in (ours, theirs)
        )
        assert ours_codecs == theirs_codecs
        assert ours.dtype == theirs.dtype
        places = {
            key: (entry["offset"], entry["length"]) for key, entry in ours.manifest.dict().items()
        }
        assert places == {
            key: (entry["offset"], entry["length"]) for key, entry in theirs.manifest.dict().items()
        }
        (url,) = {entry["path"] for entry in ours.manifest.dict().values()}
        assert url == hrefs[band]
    assert visual["visual"].dims == ("band", "y", "x")


@pytest.mark.filterwarnings("ignore:.*Zarr version 3 specification:UserWarning")
def test_it_can_be_written_as_icechunk_elsewhere(stack: Stack, tmp_path: Any) -> None:
    import icechunk
    import xarray as xr

    stack.crawl(bands=["scl", "visual"], tiles=["10TFR"], datetime=DATES[0])
    with stack.connect() as cat:
        scene = cat.scene(the_item(stack))
        dataset = scene.virtual(resolution=20, bands=["scl", "visual"])
        pixels = scene.open(resolution=20, bands=["scl", "visual"]).load()
    config = icechunk.RepositoryConfig.default()
    prefix = stack.server.files_url
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix, icechunk.http_store({"allow_http": "true"}))
    )
    icechunk.set_logs_filter("error")
    repository = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(tmp_path / "elsewhere")),
        config,
        authorize_virtual_chunk_access=icechunk.containers_credentials(
            {prefix: icechunk.credentials.HttpAccess}
        ),
    )
    session = repository.writable_session("main")
    dataset.vz.to_icechunk(session.store)
    read = xr.open_zarr(session.store, consolidated=False, mask_and_scale=False, chunks=None)
    for band in ("scl", "visual"):
        assert (read[band].to_numpy() == pixels[band].to_numpy()).all()
