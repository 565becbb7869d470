"""``cogcat demo``: the whole way on one machine, from a STAC search to a plot, in under a minute.

What it serves is synthetic; how it is searched, crawled, recorded and read is not.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

import catalog
from catalog.demo import marker
from catalog.demo.archive import Archive, build_archive
from catalog.demo.server import ArchiveServer
from catalog.errors import UsageError
from catalog.preview import write_preview
from catalog.settings import load_settings
from catalog.setup import set_up
from catalog.stored_scene import StoredScene

TILES = ("10TFR", "10TGR", "11TLL")
DATES = (
    "2023-02-16", "2023-03-28", "2023-05-02", "2023-06-11",
    "2023-07-21", "2023-08-30", "2023-10-09", "2023-12-23",
)  # fmt: skip
WIDTH = 1104
"""Pixels of 10 m: divides into the overviews of 20, 40, 60 and 80 m without a rest."""
CLEAR = (4, 5, 6, 7, 11)
"""Classes of ``scl`` that are ground seen clearly: vegetation, soil, water, unclassified, snow."""

Say = Callable[[str], Any]


def run_demo(directory: Path, *, say: Say) -> None:
    """Runs the demo in ``directory`` (made, or made anew) and says what it does.

    Raises:
        UsageError: the directory holds something that is not an earlier demo's, or the
            environment names a catalog, which would be written to in its place.
        CatalogError: a step failed.
    """
    directory = directory.resolve()
    _check_environment(directory)
    made = marker.begin(directory)
    try:
        _run_steps(directory, made, say)
    finally:
        made.write()


def _run_steps(directory: Path, made: marker.Made, say: Say) -> None:
    started = time.monotonic()
    say(f"1. A synthetic archive: {len(TILES)} tiles, {len(DATES)} dates, laid out like")
    say("   Earth Search's Collection 1. The pixels are made up; nothing else is.")
    archive = build_archive(directory / marker.ARCHIVE, tiles=TILES, dates=DATES, width=WIDTH)
    files = sum(1 for _ in archive.files.rglob("*.tif"))
    say(f"   {files} COGs in {time.monotonic() - started:.1f} s")
    config = directory / marker.CONFIG
    with ArchiveServer(archive) as server:
        say("")
        say(f"2. Serve them with HTTP ranges beside a STAC API, {server.stac_url}, and crawl")
        made.stac = server.stac_url
        made.write()
        _write_config(config, directory, match=server.files_url, url=server.files_url)
        _run("init", "--config", config, say=say)
        crawl = ("crawl", "--stac", server.stac_url, "--datetime", "2023", "--config", config)
        _run(*crawl, say=say)
        requests, bands = len(server.requests.below("/files/")), _bands(config)
        scenes = f"{requests // bands} scenes of {bands} files"
        say(f"   the server counted {requests} requests for {scenes}:")
        say("   one ranged GET each, which gives references and identity")
        say("   and again: nothing has changed, so nothing is read")
        _run(*crawl, say=say)
        say("")
        say("3. Ask the catalog")
        _run("search", "--tile", "10TFR", "--max-cloud-cover", "30", "--config", config, say=say)
        say("")
        say("4. Open one tile over time, and check it against rasterio as the seed notebook did")
        with catalog.connect(config=config) as cat:
            _check_mean(cat, archive.rebased(server.url), say)
    # The server is gone now. References are relative to a named container, so the repository
    # can be pointed at the files themselves without rewriting one of them.
    files_url = archive.files.as_uri() + "/"
    _write_config(config, directory, match=server.files_url, url=files_url)
    set_up(load_settings(config=config))
    say("   the server has stopped; the repository now reads the files, no reference rewritten")
    with catalog.connect(config=config) as cat:
        scene = next(iter(cat.search(tile="10TFR", sort="cloud_cover", limit=1)))
        _write_pictures(cat, scene, directory, say)
    say("")
    say(f"Done in {time.monotonic() - started:.0f} s. To play with what is left:")
    say(f"   cd {_short(directory)}")
    say("   cogcat status")
    say(f"   cogcat show {scene.id}")
    say("   python -c \"import catalog; print(catalog.connect().cube('10TFR', resolution=20))\"")


def _check_environment(directory: Path) -> None:
    """What the environment names comes before ``cogcat.toml``."""
    with tempfile.TemporaryDirectory() as elsewhere:
        config = Path(elsewhere, marker.CONFIG)
        _write_config(config, directory, match="http://127.0.0.1/", url="http://127.0.0.1/")
        found = load_settings(config=config)
    meant = marker.settings(directory)
    for name in ("database", "repository"):
        if getattr(found, name) != meant[name]:
            raise UsageError(
                f"COGCAT_{name.upper()} names another catalog than the demo's, which would be "
                "written to: unset it for the demo"
            )


def _write_config(path: Path, directory: Path, *, match: str, url: str) -> None:
    # JSON's strings are TOML's too, whatever characters a directory's name has.
    text = partial(json.dumps, ensure_ascii=False)
    lines = [f"{name} = {text(value)}" for name, value in marker.settings(directory).items()]
    lines += ["", "[[sources]]", 'name = "demo"', f"match = {text(match)}", f"url = {text(url)}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(*arguments: str | Path, say: Say) -> None:
    """Runs a command of ours as a user would, and shows it."""
    from catalog.cli import main

    shown = [_short(part) if isinstance(part, Path) else part for part in arguments]
    say(f"   $ cogcat {' '.join(shown)}")
    main.main([str(part) for part in arguments], prog_name="cogcat", standalone_mode=False)


def _bands(config: Path) -> int:
    with catalog.connect(config=config) as cat:
        return len(next(iter(cat.search(limit=1))).assets)


def _check_mean(cat: catalog.Catalog, archive: Archive, say: Say) -> None:
    cat.cube("10TFR", bands=["scl"], resolution=20)  # what a process pays once: imports, clients
    started = time.monotonic()
    cube = cat.cube("10TFR", bands=["red", "nir", "scl"], resolution=20, reflectance=True)
    opened = time.monotonic() - started
    sizes = " × ".join(f"{cube.sizes[axis]} {axis}" for axis in ("time", "y", "x"))
    bands = ", ".join(map(str, cube.data_vars))
    say(f"   cube: {sizes}, {bands}, opened in {1000 * opened:.0f} ms, no pixel read")
    say(f"   cite: {cube.attrs['cogcat_branch']} at snapshot {cube.attrs['cogcat_snapshot']}")
    scene = next(iter(cat.search(tile="10TFR", sort="cloud_cover", limit=1)))
    ours = scene.open(resolution=10, bands=["red"])["red"][:256, :256].mean().item()
    with rasterio.open(archive.path(scene.assets["red"].href)) as file:
        theirs = file.read(1, window=((0, 256), (0, 256))).mean()
    say(f"   mean of the first tile of {scene.id} red: {ours:.6f}, rasterio {theirs:.6f}")
    if ours != theirs:
        raise catalog.CatalogError(f"{scene.id} red: the store reads other pixels than rasterio")


def _write_pictures(cat: catalog.Catalog, scene: StoredScene, directory: Path, say: Say) -> None:
    say("")
    say("5. Pictures")
    picture = directory / marker.PICTURES[0]
    write_preview(scene, picture)
    say(f"   {_short(picture)}: {scene.id} in true colour")
    plot = directory / marker.PICTURES[1]
    _plot_ndvi(cat, plot)
    say(f"   {_short(plot)}: vegetation through the year, clouds left out")


def _plot_ndvi(cat: catalog.Catalog, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for tile in TILES:
        cube = cat.cube(tile, bands=["red", "nir", "scl"], resolution=20, reflectance=True)
        axes.plot(cube["time"].to_numpy(), _median_ndvi(cube), marker="o", label=tile)
    axes.set_ylabel("median NDVI of clear pixels")
    axes.set_title("A year of three tiles from one virtual cube each (synthetic pixels)")
    axes.legend(title="tile")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _median_ndvi(cube: xr.Dataset) -> list[float]:
    """Of the clear pixels, one per time step; NaN where there are none."""
    medians = []
    for step in range(cube.sizes["time"]):
        red, nir, scl = (cube[band][step].to_numpy() for band in ("red", "nir", "scl"))
        clear = np.isin(scl, CLEAR) & (red + nir > 0)
        ndvi = (nir[clear] - red[clear]) / (nir[clear] + red[clear])
        medians.append(float(np.median(ndvi)) if ndvi.size else float("nan"))
    return medians


def _short(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
