"""Files and snapshots that are not what they were: each a clear error, never other pixels."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import pytest
from scenes import local_source, noise, references, served, source_of, write, write_small_cog
from stacks import Stack, s3_client
from test_arrays import opened

from catalog.errors import CatalogError, ChangedFileError, NotFoundError, SourceError, StoreError
from catalog.repository import Repository

pytest_plugins = ["stacks"]


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("fault", ["changed", "gone"])
def test_a_file_that_changed_or_went(tmp_path: Path, scheme: str, fault: str) -> None:
    """Even where the new file has the same size and layout, and its tiles would decode."""
    path = write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    os.utime(path, (1_700_000_000, 1_700_000_000))
    with served(tmp_path) as server:
        source = source_of(server) if scheme == "http" else local_source(tmp_path / "files")
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
        if fault == "gone":
            path.unlink()
        else:
            write_small_cog(path, noise(60, 60, seed=5), overviews=())
            os.utime(path, (1_700_000_100, 1_700_000_100))
        with pytest.raises(ChangedFileError) as caught:
            opened(repository, snapshot).red.load()
    error = caught.value
    assert (error.scene, error.band, error.href) == ("s0", "red", f"{source.url}a.tif")
    assert isinstance(error, StoreError)
    assert isinstance(error.__cause__, icechunk.IcechunkError)
    assert ("gone" if fault == "gone" else "changed") in str(error)
    # A Dask worker's error comes home as it was.
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_file_that_changed_or_went_on_s3(s3_stack: Stack) -> None:
    """There the ETag is the judge."""
    s3_stack.crawl(limit=2)
    client = s3_client(s3_stack.moto or "")
    with s3_stack.connect() as cat:
        changed, gone = cat.search().records()[:2]
        for record in (changed, gone):
            href = cat.scene(record.id).assets["red"].href
            place = {"Bucket": "e84-earth-search-sentinel-data", "Key": href.partition(".com/")[2]}
            if record is gone:
                client.delete_object(**place)
            else:
                body = client.get_object(**place)["Body"].read()
                client.put_object(**place, Body=body[:-1] + b"?", ACL="public-read")
            with pytest.raises(ChangedFileError) as caught:
                cat.scene(record.id).open(bands=["red"], resolution=10).load()
            assert (caught.value.scene, caught.value.band) == (record.id, "red")
            assert caught.value.href == f"s3://{place['Bucket']}/{place['Key']}"
            cat.scene(record.id).open(bands=["nir"], resolution=10).load()
        # The item's checksums say that nothing has changed; read again, the file says otherwise.
        assert s3_stack.crawl(ids=[changed.id]).unchanged == 1
        assert s3_stack.crawl(ids=[changed.id], reread=True).indexed == 1
        cat.scene(changed.id).open(bands=["red"], resolution=20).load()


def test_a_server_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.chunk_reader.PAUSES", (0.01,))
    write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    with served(tmp_path) as server:
        source = source_of(server)
        repository = Repository.create(str(tmp_path / "repository"), [source])
        snapshot = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    with pytest.raises(SourceError, match=r"^s0 red: its store does not answer: .*files/a\.tif"):
        opened(repository, snapshot).red.load()


def test_bytes_that_are_no_tile(tmp_path: Path) -> None:
    """A file damaged where it lies, with its time as it was."""
    path = write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    scene = references("s0", source, {"red": "a.tif"})
    snapshot = write(repository, scene).snapshot_id
    before = path.stat()
    data = bytearray(path.read_bytes())
    middle = int(scene.arrays[0].offsets[0, 0] + scene.arrays[0].lengths[0, 0] // 2)
    data[middle] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match=r"^s0 red: a tile cannot be decoded: .*a\.tif\)$"):
        opened(repository, snapshot).red.load()


def test_a_snapshot_that_is_gone(tmp_path: Path) -> None:
    """Expired and collected: opening names it, and so does a dataset opened before."""
    write_small_cog(tmp_path / "files" / "a.tif", noise(60, 60), overviews=())
    source = local_source(tmp_path / "files")
    repository = Repository.create(str(tmp_path / "repository"), [source])
    first = write(repository, references("s0", source, {"red": "a.tif"})).snapshot_id
    write(repository, references("s1", source, {"red": "a.tif"}, day=1))
    write(repository, references("s2", source, {"red": "a.tif"}, day=2))
    before = opened(repository, first).red
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert first in repository.icechunk.expire_snapshots(later)
    repository.icechunk.garbage_collect(later)
    fresh = Repository.open(str(tmp_path / "repository"), [source])
    with pytest.raises(NotFoundError, match=f"no snapshot {first} in "):
        fresh.store(first)
    copy = pickle.loads(pickle.dumps(before))
    with pytest.raises(CatalogError, match="s0 red"):
        copy.load()
    with pytest.raises(NotFoundError, match="no snapshot 0000"):
        fresh.store("00000000000000000000")
