"""Headers: the right references from one request, and one clear line for a file that is bad."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import make_scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import (
    EPSG,
    TRANSFORM,
    href_of,
    levels_of,
    local_source,
    make_asset,
    noise,
    read_header,
    read_level,
    served,
    source_of,
    tile_table,
    write,
    write_small_cog,
    write_tiff,
)

from catalog.cube import scene_references
from catalog.demo.faults import Fault
from catalog.demo.http_ranges import md5_tag
from catalog.demo.server import ArchiveServer
from catalog.errors import (
    DamagedFileError,
    HeaderError,
    MissingFileError,
    UnreadableFileError,
)
from catalog.header import Header, HeaderReader, Level
from catalog.item import scene_from_item
from catalog.patience import Patience
from catalog.remote_file import FIRST_READ
from catalog.repository import Repository
from catalog.settings import BUILT_IN_SOURCES, Source

REAL = "S2B_T10TFR_20231223T190950_L2A"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchiveServer]:
    directory = tmp_path_factory.mktemp("served")
    (directory / "files").mkdir()
    with served(directory) as server:
        yield server


@pytest.fixture
def server(running: ArchiveServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    """Serves ``server.archive.files``; clients of it try twice at most."""
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(retries=1, first=0.01))
    running.requests.reset()
    yield running
    running.faults.reset()


def read(server: ArchiveServer, key: str, **facts: Any) -> Header:
    source = source_of(server)
    return read_header(make_asset(href_of(source, key), **facts), source)


def table(level: Level, sample: int = 0) -> list[tuple[int, int]]:
    plane = 0 if level.interleaved else sample
    return list(
        zip(
            level.offsets[plane].ravel().tolist(),
            level.lengths[plane].ravel().tolist(),
            strict=True,
        )
    )


def assert_gdal_agrees(header: Header, path: Path) -> None:
    assert len(header.levels) == levels_of(path)
    for number, level in enumerate(header.levels):
        for sample in range(1 if level.interleaved else level.samples):
            assert table(level, sample) == tile_table(path, number, sample + 1)


# The real file


def test_the_real_header_gives_the_real_references(
    server: ArchiveServer, shared_data: Path, tmp_path: Path
) -> None:
    directory = shared_data / "cog-headers"
    facts = json.loads((directory / f"{REAL}_B04.tiles.json").read_text())
    item = json.loads((directory / f"{REAL}.item.json").read_text())
    built_in = BUILT_IN_SOURCES[0]
    path = server.archive.files / facts["href"].removeprefix(built_in.match)
    path.parent.mkdir(parents=True)
    path.write_bytes((directory / f"{REAL}_B04.header.bin").read_bytes())
    with path.open("r+b") as file:
        file.truncate(facts["file_size"])
    source = Source(name=built_in.name, match=built_in.match, url=server.files_url)
    scene = scene_from_item(item, bands=["red"])
    assert [asset.href for asset in scene.assets] == [facts["href"]]

    header = read_header(scene.assets[0], source)

    assert [
        {
            "width": level.width,
            "height": level.height,
            "tile": level.tile_width,
            "offsets": level.offsets.ravel().tolist(),
            "byte_counts": level.lengths.ravel().tolist(),
        }
        for level in header.levels
    ] == facts["levels"]
    assert len(header.levels) == 5
    assert {level.tile_height for level in header.levels[1:]} == {512}
    assert {(level.dtype, level.predictor, level.nodata) for level in header.levels} == {
        ("uint16", 2, 0)
    }
    assert (header.size, header.epsg) == (facts["file_size"], 32610)
    assert header.transform == (10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0)
    assert [(r.method, r.range) for r in server.requests] == [("GET", "bytes=0-32767")]

    repository = Repository.create(str(tmp_path / "repository"), [source])
    written = write(
        repository,
        scene_references(scene, [header]),
        branch=f"{scene.collection}/{scene.tile}",
    )
    assert repository.branches() == {"sentinel-2-c1-l2a/10TFR"}

    async def children(prefix: str) -> set[str]:
        store = repository.store(written.snapshot_id)
        return {name async for name in store.list_dir(prefix)}

    assert asyncio.run(children("")) == {
        "zarr.json",
        "r10m",
        "r20m",
        "r40m",
        "r80m",
        "r160m",
    }
    assert "red" in asyncio.run(children("r160m"))


# Every kind of file


KINDS: dict[str, dict[str, Any]] = {
    "earth-search": {},
    "uint8": {"dtype": "uint8", "predictor": 1},
    "no-overviews": {"overviews": ()},
    "bigtiff": {"bigtiff": True},
    "uncompressed": {"compress": None},
    "lzw": {"compress": "LZW"},
    "zstd": {"compress": "ZSTD"},
    "no-nodata": {"nodata": None},
    "other-nodata": {"nodata": 65535},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*codecs are not in the Zarr version 3:UserWarning")
def test_references_equal_those_of_virtual_tiff(tmp_path: Path, kind: str) -> None:
    from obspec_utils.registry import ObjectStoreRegistry
    from obstore.store import LocalStore
    from virtual_tiff import VirtualTIFF

    options = dict(KINDS[kind])
    path = write_small_cog(
        tmp_path / "a.tif", noise(200, 330, dtype=options.pop("dtype", "uint16")), **options
    )
    header = read_header(make_asset(path.as_uri()), local_source(tmp_path))
    assert_gdal_agrees(header, path)
    registry = ObjectStoreRegistry({"file://": LocalStore()})
    theirs = VirtualTIFF(ifd_layout="nested")(path.as_uri(), registry)._group
    arrays = [
        found
        for name, group in sorted(theirs.groups.items(), key=lambda pair: int(pair[0]))
        for found in group.arrays.values()
    ]
    ours = scene_references(make_scene(), [header]).arrays
    assert len(ours) == len(arrays) == len(header.levels)
    by_width = sorted(arrays, key=lambda array: -array.shape[-1])
    for mine, their in zip(sorted(ours, key=lambda a: -a.spec.grid.width), by_width, strict=True):
        document = mine.spec.document(1)
        metadata = their.metadata.to_dict()
        assert tuple(document["shape"][1:]) == their.shape
        assert (
            tuple(document["chunk_grid"]["configuration"]["chunk_shape"][1:])
            == their.metadata.chunk_grid.chunk_shape
        )
        assert document["data_type"] == metadata["data_type"]
        assert document["fill_value"] == metadata["fill_value"]
        assert [codec["name"] for codec in document["codecs"]] == [
            codec["name"] for codec in metadata["codecs"]
        ]
        if kind != "zstd":  # they write the level, which no decoder needs
            assert _without_endian(document["codecs"]) == _without_endian(metadata["codecs"])
        chunks = their.manifest.dict()
        for index in np.ndindex(*mine.spec.chunk_grid):
            entry = chunks[".".join(map(str, index))]
            assert (entry["offset"], entry["length"]) == (
                mine.offsets[index],
                mine.lengths[index],
            )


def _without_endian(codecs: Any) -> list[Any]:
    """A byte has no order, whatever the ``bytes`` codec says of it."""
    return [
        {"name": "bytes"} if codec["name"] == "bytes" else {"configuration": {}, **codec}
        for codec in codecs
    ]


def test_three_samples_in_one_tile_are_one_chunk(tmp_path: Path) -> None:
    path = write_small_cog(tmp_path / "v.tif", noise(3, 200, 330, dtype="uint8"))
    header = read_header(make_asset(path.as_uri(), "visual"), local_source(tmp_path))
    assert_gdal_agrees(header, path)
    assert {(level.samples, level.interleaved) for level in header.levels} == {(3, True)}
    for array in scene_references(make_scene(), [header]).arrays:
        assert array.spec.chunk == (3, 64, 64)
        assert array.spec.chunk_grid[0] == 1


def test_three_samples_in_tiles_of_their_own_are_three_chunks(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "v.tif", noise(3, 200, 330, dtype="uint8"), interleave="band")
    header = read_header(make_asset(path.as_uri(), "visual"), local_source(tmp_path))
    assert_gdal_agrees(header, path)
    assert not header.levels[0].interleaved
    (array,) = scene_references(make_scene(), [header]).arrays
    assert array.spec.chunk_grid == (3, 4, 6)


def test_a_sparse_tile_has_no_length(tmp_path: Path) -> None:
    pixels = noise(200, 200)
    pixels[64:128, :64] = 0
    path = write_small_cog(tmp_path / "a.tif", pixels, sparse_ok=True)
    header = read_header(make_asset(path.as_uri()), local_source(tmp_path))
    assert_gdal_agrees(header, path)
    assert table(header.levels[0])[4] == (0, 0)


def test_masks_and_other_pages_are_no_overviews(tmp_path: Path) -> None:
    """GDAL's internal mask, and a second image behind the first, are not of this band."""
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_tiff(path, noise(200, 200), nodata=None)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.eye(200, dtype=bool))
    options = {"APPEND_SUBDATASET": "YES", "driver": "GTiff", "tiled": True, "dtype": "uint16"}
    with rasterio.open(
        path, "w", width=64, height=64, count=1, crs="EPSG:32610", blockxsize=64, blockysize=64,
        transform=rasterio.Affine(*TRANSFORM), **options,
    ) as dataset:  # fmt: skip
        dataset.write(noise(64, 64), 1)
    header = read_header(make_asset(path.as_uri()), local_source(tmp_path))
    assert [level.width for level in header.levels] == [200]


def test_the_tie_point_may_be_a_pixels_centre(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(AREA_OR_POINT="Point")
    header = read_header(make_asset(path.as_uri()), local_source(tmp_path))
    with rasterio.open(path) as dataset:
        assert header.transform == tuple(dataset.transform)[:6]


def test_what_a_header_knows_of_its_file(server: ArchiveServer) -> None:
    path = write_small_cog(server.archive.files / "identity.tif", noise(200, 200))
    content = path.read_bytes()
    header = read(server, "identity.tif")
    assert header.size == len(content)
    assert header.etag == f'"{hashlib.md5(content).hexdigest()}"'
    assert header.last_modified is not None
    assert header.last_modified.timestamp() == int(path.stat().st_mtime)
    assert header.last_modified.utcoffset() == timedelta(0)
    assert header.read == min(FIRST_READ, len(content))
    assert header.sha256 == hashlib.sha256(content[: header.read]).hexdigest()
    assert header.location == "vcc://files/identity.tif"
    assert (header.epsg, header.transform) == (EPSG, TRANSFORM)


# Requests


def test_one_get_per_file_and_no_head(server: ArchiveServer) -> None:
    """Also where the file is shorter than the first read, and where its band has five levels."""
    files = {
        "blue": write_small_cog(server.archive.files / "blue.tif", noise(40, 40), overviews=()),
        "red": write_small_cog(
            server.archive.files / "red.tif", noise(600, 600), overviews=(2, 4, 8, 16)
        ),
        "scl": write_small_cog(server.archive.files / "scl.tif", noise(90, 90, dtype="uint8")),
    }
    assert files["blue"].stat().st_size < FIRST_READ < files["red"].stat().st_size
    source = source_of(server)

    async def read_all() -> list[Header]:
        reader = HeaderReader([source])
        return await asyncio.gather(
            *(reader.read(make_asset(href_of(source, f"{band}.tif"), band)) for band in files)
        )

    headers = asyncio.run(read_all())
    assert [header.requests for header in headers] == [1, 1, 1]
    assert sorted((r.method, r.path, r.range) for r in server.requests) == [
        ("GET", f"/files/{band}.tif", "bytes=0-32767") for band in sorted(files)
    ]


def test_a_header_longer_than_the_first_read(server: ArchiveServer) -> None:
    path = write_small_cog(
        server.archive.files / "long.tif", noise(1024, 1600, dtype="uint8"), block=16, predictor=1
    )
    header = read(server, "long.tif")
    assert header.levels[0].offsets.size == 6400
    assert_gdal_agrees(header, path)
    assert 1 < header.requests == len(server.requests) <= 3
    assert {r.method for r in server.requests} == {"GET"}
    assert header.read == sum(r.sent for r in server.requests) < path.stat().st_size / 3


def test_a_tiff_whose_directory_lies_at_its_end(server: ArchiveServer) -> None:
    path = write_tiff(server.archive.files / "end.tif", noise(1200, 1200), block=256)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(NOTE="x" * 1000)
    content = path.read_bytes()
    assert int.from_bytes(content[4:8], "little") > len(content) - 5000
    header = read(server, "end.tif")
    assert_gdal_agrees(header, path)
    assert header.requests == len(server.requests) <= 3
    assert header.read < FIRST_READ + 10_000 < len(content) / 10
    assert header.epsg == EPSG


def test_a_file_that_changes_between_two_reads_is_read_anew(server: ArchiveServer) -> None:
    path = write_tiff(server.archive.files / "changing.tif", noise(600, 600), block=256)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(NOTE="x" * 1000)
    content = path.read_bytes()
    fault = server.misbehave("/files/changing.tif", body=content[:-1] + b"!", times=1)
    header = read(server, "changing.tif")
    assert header.size == len(content)
    assert header.etag == md5_tag(content)  # of the file as it is at the second try
    # Never the same twice: refused.
    versions = itertools.count()

    def restless(request: Any) -> Fault:
        return Fault(body=content[:-4] + next(versions).to_bytes(4))

    assert fault.times == 0
    del server.faults.paths["/files/changing.tif"]
    server.faults.callback = restless
    with pytest.raises(HeaderError, match="the file changed while its header was read"):
        read(server, "changing.tif")


def test_concurrency_is_bounded(server: ArchiveServer) -> None:
    write_small_cog(server.archive.files / "slow.tif", noise(64, 64), overviews=())
    active = most = 0
    source = source_of(server)
    import obstore

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            await asyncio.sleep(0.001)
            return await original(*args, **options)
        finally:
            active -= 1

    original = obstore.get_async

    async def read_all() -> None:
        reader = HeaderReader([source], concurrency=3)
        asset = make_asset(href_of(source, "slow.tif"))
        await asyncio.gather(*(reader.read(asset) for _ in range(12)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.remote_file.obstore.get_async", counted)
        asyncio.run(read_all())
    assert most == 3


# Bad files


BAD = {
    "missing": (None, "the file is missing"),
    "html": (b"<!DOCTYPE html>\n<html>", "not a TIFF: it begins with b'<!DOCTYP'"),
    "empty": (b"", "the file is empty"),
    "three-bytes": (b"II*", r"not a TIFF: it begins with b'II\*'"),
    "no-directory": (b"II*\0\0\0\0\0", "holds no image"),
    "eight-bytes": (8, r"truncated: its header goes on at byte \d+ of 8"),
    "half-a-directory": (220, "truncated: the file ends within its header"),
    "half-a-table": (500, r"truncated: "),
    "half-the-pixels": (20_000, r"truncated: its tiles reach to byte \d+, the file has 20000"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_small_cog(tmp_path_factory.mktemp("good") / "a.tif", noise(200, 200)).read_bytes()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_one_clear_line(server: ArchiveServer, good: bytes, name: str) -> None:
    content, reason = BAD[name]
    path = server.archive.files / f"{name}.tif"
    if content is not None:
        path.write_bytes(good[:content] if isinstance(content, int) else content)
    error = assert_refused(server, path.name, reason)
    meant = {"missing": MissingFileError, "no-directory": UnreadableFileError}
    assert type(error) is meant.get(name, DamagedFileError)


def assert_refused(server: ArchiveServer, key: str, reason: str, **facts: Any) -> HeaderError:
    with pytest.raises(HeaderError, match=reason) as caught:
        read(server, key, **facts)
    error = caught.value
    href = f"{server.files_url}{key}"
    assert (error.band, error.href) == ("red", href)
    assert str(error) == f"red: {error.reason} ({href})"
    assert "\n" not in str(error)
    return error


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "striped": ({"block": None}, "striped, not tiled"),
    "float": ({"dtype": "float32"}, "samples are float32, not integers"),
    "complex": ({"dtype": "complex64"}, "samples are complex64, not integers"),
    "24-bits": ({"dtype": "uint32", "NBITS": 24}, r"24 bits \(NBITS=24\).* NBITS=32`"),
    "bits": ({"NBITS": 12, "compress": "DEFLATE"}, r"12 bits \(NBITS=12\).* NBITS=16`"),
    "jpeg": ({"dtype": "uint8", "compress": "JPEG"}, "compression 7 is not supported"),
    "placeless": ({"epsg": None, "transform": None}, "where its pixels lie"),
    "rotated": ({"transform": (7, 7, 600000, 7, -7, 5100000)}, "on no north-up grid"),
    "upside-down": ({"transform": (10, 0, 600000, 0, 10, 5100000)}, "on no north-up grid"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_tiff_that_cannot_be_referenced(server: ArchiveServer, name: str) -> None:
    options, reason = REFUSED[name]
    options = dict(options)
    pixels = (noise(100, 100) % 4096).astype(options.pop("dtype", "uint16"))
    write_tiff(server.archive.files / f"{name}.tif", pixels, **options)
    assert type(assert_refused(server, f"{name}.tif", reason)) is UnreadableFileError


def test_a_file_that_is_not_what_its_item_says(server: ArchiveServer, good: bytes) -> None:
    server.archive.files.joinpath("other.tif").write_bytes(good)
    assert_refused(server, "other.tif", f"the file has {len(good)} bytes, its item says 7", size=7)
    assert_refused(
        server,
        "other.tif",
        "the image has 200 rows and 200 columns, its item says 200 and 100",
        shape=(200, 100),
    )
    header = read(server, "other.tif", size=len(good), shape=(200, 200))
    with pytest.raises(HeaderError, match="in EPSG:32610, its item says EPSG:32611") as caught:
        scene_references(make_scene(epsg=32611), [header])
    assert (caught.value.band, caught.value.href) == ("red", header.asset.href)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 500}, "cannot be read: .*500 Internal Server Error"),
        ({"status": 503}, "cannot be read: .*503 Service Unavailable"),
        ({"status": 403}, "cannot be read: .*403 Forbidden"),
        ({"status": 200, "body": b"II*\0" * 10_000}, "sends the whole file, 40000 bytes"),
        ({"truncate": 100}, "cannot be read: "),
        ({"status": 412}, "cannot be read: .*412 Precondition Failed"),
    ],
    ids=["500", "503", "403", "no ranges", "cut off", "412"],
)
def test_a_server_that_misbehaves(
    server: ArchiveServer, good: bytes, fault: dict[str, Any], reason: str
) -> None:
    server.archive.files.joinpath("fault.tif").write_bytes(good)
    server.misbehave("/files/fault.tif", **fault)
    error = assert_refused(server, "fault.tif", reason)
    assert type(error) is HeaderError
    assert error.__cause__ is not None
    assert error.reason.count("http://") == 0  # the href is named once, and no timings
    assert {request.method for request in server.requests} == {"GET"}


def test_a_server_that_fails_once_is_asked_again(server: ArchiveServer, good: bytes) -> None:
    server.archive.files.joinpath("once.tif").write_bytes(good)
    server.misbehave("/files/once.tif", status=503, times=1)
    assert read(server, "once.tif").size == len(good)
    # The second asks for one byte, to see whether the server wants to be left alone.
    asked = [(request.status, request.range) for request in server.requests]
    assert asked == [(503, "bytes=0-32767"), (206, "bytes=0-0"), (206, "bytes=0-32767")]


def test_a_server_that_fails_within_a_long_header(server: ArchiveServer) -> None:
    path = write_tiff(server.archive.files / "late.tif", noise(600, 600), block=256)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(NOTE="x" * 1000)

    def late(request: Any) -> Any:
        return None if request.headers["range"].startswith("bytes=0-") else Fault(status=500)

    server.faults.callback = late
    assert_refused(server, "late.tif", "cannot be read: .*500 Internal Server Error")


def test_nothing_listens(server: ArchiveServer) -> None:
    source = Source(name="gone", match="http://gone/", url="http://127.0.0.1:9/")
    with pytest.raises(HeaderError, match=r"red: cannot be read: .* \(http://gone/a\.tif\)$"):
        read_header(make_asset("http://gone/a.tif"), source)


def test_an_href_of_no_source_names_the_band() -> None:
    with pytest.raises(HeaderError, match=r"^red: no source matches it"):
        read_header(make_asset("https://elsewhere/a.tif"))


def test_a_table_that_points_past_64_bits_is_truncated(server: ArchiveServer) -> None:
    """The sum of an offset and a length must not wrap around."""
    path = write_small_cog(
        server.archive.files / "wraps.tif", noise(60, 60), overviews=(), bigtiff=True, block=64
    )
    content = bytearray(path.read_bytes())
    for at in range(16, 400):
        if int.from_bytes(content[at : at + 2], "little") == 324:  # TileOffsets, one of them
            content[at + 12 : at + 20] = (2**64 - 1).to_bytes(8, "little")
            break
    path.write_bytes(content)
    assert_refused(server, "wraps.tif", "truncated: its tiles reach to byte 18446744073709")


def test_a_chain_of_directories_that_bites_its_tail(server: ArchiveServer, good: bytes) -> None:
    content = bytearray(good)
    first = int.from_bytes(content[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[end : end + 4] = first.to_bytes(4, "little")
    server.archive.files.joinpath("loop.tif").write_bytes(content)
    assert_refused(server, "loop.tif", "its image directories form a loop")


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (317, 3, "predictor 3 is not supported"),
        (259, 9999, "compression 9999 is not supported"),
        (256, 0, "an image of 200 rows and 0 columns"),
        (322, 0, "tiles of 64 rows and 0 columns"),
        (322, 128, "its table lists 16 tiles and 16 sizes, an image of this size has 8"),
        (277, 2, "2 samples a pixel, red has 1"),
    ],
)
def test_a_field_that_cannot_be_meant(
    server: ArchiveServer, good: bytes, tag: int, value: int, reason: str
) -> None:
    content = bytearray(good)
    first = int.from_bytes(content[4:8], "little")
    for at in range(first + 2, first + 300, 12):
        if int.from_bytes(content[at : at + 2], "little") == tag:
            content[at + 8 : at + 10] = value.to_bytes(2, "little")
            break
    else:
        pytest.fail(f"no field {tag}")
    server.archive.files.joinpath("field.tif").write_bytes(content)
    assert_refused(server, "field.tif", reason)


def test_a_count_that_nobody_can_allocate(server: ArchiveServer, good: bytes) -> None:
    """Believed, it would end the process."""
    content = bytearray(good)
    first = int.from_bytes(content[4:8], "little")
    content[first + 2 + 12 * 3 + 4 : first + 2 + 12 * 3 + 8] = b"\xff\xff\xff\xff"
    server.archive.files.joinpath("huge.tif").write_bytes(content)
    assert_refused(server, "huge.tif", r"its field \w+ has 4294967295 values")


@pytest.mark.parametrize("kind", ["classic", "bigtiff", "visual"])
@given(data=st.data())
@settings(
    max_examples=120,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_damaged_header_is_a_header_or_a_header_error(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    path = tmp_path / f"{kind}.tif"
    if not path.exists():
        shape = (3, 150, 130) if kind == "visual" else (150, 130)
        pixels = noise(*shape, dtype="uint8" if kind == "visual" else "uint16")
        write_small_cog(path, pixels, overviews=(2,), bigtiff=kind == "bigtiff")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        content = content[: data.draw(st.integers(0, 1300), label="length")]
    else:
        where = st.integers(0, 1100)
        byte = st.sampled_from([0, 1, 3, 128, 255]) | st.integers(0, 255)
        changes = data.draw(st.dictionaries(where, byte, min_size=1, max_size=8), label="bytes")
        for at, value in changes.items():
            content[at] = value
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(content)
    try:
        header = read_header(make_asset(damaged.as_uri()), local_source(tmp_path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene_references(make_scene(), [header])
    except HeaderError as error:
        assert "\n" not in str(error)  # noqa: PT017 - whatever happens, but nothing else


def test_the_level_behind_a_header_reads_as_rasterio_reads(tmp_path: Path) -> None:
    """Offsets and lengths alone: inflate a tile by hand."""
    import zlib

    path = write_small_cog(tmp_path / "a.tif", noise(200, 200), predictor=1)
    header = read_header(make_asset(path.as_uri()), local_source(tmp_path))
    content = path.read_bytes()
    for number, level in enumerate(header.levels):
        offset, length = table(level)[0]
        tile = np.frombuffer(zlib.decompress(content[offset : offset + length]), "<u2")
        height, width = min(64, level.height), min(64, level.width)
        np.testing.assert_array_equal(
            tile.reshape(64, 64)[:height, :width], read_level(path, number)[:64, :64]
        )
