"""Tiles that inflate to half a gigabyte, or to one byte too many, from the crawl to the pixels: one
process reads them in every way there is, and its memory is measured."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from itertools import product

import imagecodecs
import tiffs
from agreement import item_at
from stacks import DATES, TILES, Stack
from test_tile_bombs import ENCODERS

pytest_plugins = ["stacks"]

SIZE = 512
RAW = SIZE * SIZE * 2
LARGE = 500 * 2**20
GROWTH = 300 * 2**20
"""Bytes by which reading all of it may make the process larger: less than one bomb."""


def zlib_bomb() -> bytes:
    part = zlib.compressobj(9, zlib.DEFLATED, -15)
    size = 2**22
    block = part.compress(bytes(size)) + part.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    check = (LARGE // size * size % 65521) << 16 | 1
    return b"\x78\x9c" + block * (LARGE // size) + last + struct.pack(">I", check)


def lzw_bomb() -> bytes:
    """Codes that each stand for one zero more, until the table is full and cleared."""
    width = {code: 9 + sum(code >= n for n in (511, 1023, 2047)) for code in range(258, 4095)}
    cycle = f"{0:09b}" + "".join(f"{code:0{w}b}" for code, w in width.items()) + f"{256:012b}"
    # Eight of them are whole bytes. The first 256, of nine bits, ends with a bit as the last does.
    bits = "0" + (cycle * 8)[:-1]
    block = int(bits, 2).to_bytes(len(bits) // 8)
    zeros = 8 * sum(range(1, len(width) + 2))
    start = bytes([256 >> 1])
    assert imagecodecs.lzw_decode(start + block * 2, out=zeros + 9) == bytes(zeros + 9)
    return start + block * (LARGE // zeros + 1)


def zstd_bomb() -> bytes:
    """A frame of blocks that are each 128 KB of one byte."""
    block = (1 << 17) << 3 | 1 << 1
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 7 << 3])
    frame += (struct.pack("<I", block)[:3] + b"\0") * (LARGE >> 17)
    return frame + struct.pack("<I", 1)[:3]


BOMBS = {5: lzw_bomb, 8: zlib_bomb, 50000: zstd_bomb}
WAYS = ("open", "plain", "dask", "chunked")
READER = """
import json, resource, sys
import icechunk, xarray as xr
import catalog
from catalog.errors import StoreError

access = icechunk.credentials.HttpAccess
config, item, tile, prefix, bands = json.loads(sys.argv[1])
cat = catalog.connect(config=config)
scene = cat.scene(item)
repository = icechunk.Repository.open(
    icechunk.local_filesystem_storage(cat.settings.repository),
    authorize_virtual_chunk_access=icechunk.containers_credentials({prefix: access}),
)

def plain(band):
    store = repository.readonly_session(snapshot_id=scene.snapshot_id).store
    group = xr.open_zarr(store, group="r10m", consolidated=False, mask_and_scale=False)
    return group[band]

ways = {
    "open": lambda band: scene.open(10, [band])[band].load(),
    "plain": lambda band: plain(band).compute(),
    "dask": lambda band: cat.cube(
        tile, bands=[band], resolution=10, chunks={"y": 512, "x": 512}
    )[band].compute(),
    "chunked": lambda band: scene.open(10, [band]).chunk(y=256)[band].compute(),
}

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

for way in ways.values():
    way("coastal")
before, said = peak(), {}
for band in bands:
    for name, way in ways.items():
        try:
            way(band)
        except Exception as error:
            said[f"{name} {band}"] = [isinstance(error, StoreError), str(error)]
        else:
            said[f"{name} {band}"] = [False, None]
print(json.dumps([peak() - before, said]))
"""


def test_every_way_to_the_pixels(local_stack: Stack) -> None:
    stack = local_stack
    item = item_at(stack, "10TFR", DATES[0])
    stack.items[:] = [item]
    files = {"coastal": tiffs.image(SIZE, SIZE, SIZE)}
    for band, (compression, longer) in zip(
        ("red", "green", "blue", "nir", "nir08", "nir09"),
        product(BOMBS, (False, True)),
        strict=True,
    ):
        files[band] = tiffs.image(SIZE, SIZE, SIZE).set(tiffs.COMPRESSION, compression)
        encoded = bytes(ENCODERS[compression](bytes(RAW + 1)))
        files[band].tiles = [encoded if longer else BOMBS[compression]()]
    for band, made in files.items():
        for name in ("file:size", "file:checksum", "proj:shape", "proj:transform"):
            item["assets"][band].pop(name, None)
        stack.server.misbehave(stack.href(item, band), body=tiffs.build([made]))
    report = stack.crawl(bands=list(files))
    assert (report.indexed, report.incomplete) == (1, 0)
    bombs = [band for band in files if band != "coastal"]
    asked = [str(stack.config), item["id"], TILES[0], stack.sources[0]["url"], bombs]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READER, json.dumps(asked)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    growth, said = json.loads(ran.stdout)
    assert set(said) == {f"{way} {band}" for way in WAYS for band in bombs}
    for key, (ours, message) in said.items():
        way, _, band = key.partition(" ")
        assert message, key
        if way == "plain":
            assert "a chunk " in message or "bytes" in message, (key, message)
        else:
            assert ours, (key, message)
            assert message.startswith(f"{item['id']} {band}: "), message
            assert stack.href(item, band) in message, message
    assert growth < GROWTH, growth
