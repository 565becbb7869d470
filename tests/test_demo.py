"""``cogcat demo``: offline, from nothing to a catalog that can be searched and read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from stacks import child_environment, run_cli

import catalog
from catalog.demo.archive import load_archive
from catalog.demo.server import BEGUN

pytest_plugins = ["stacks"]

SMALL = (
    "import catalog.demo.run as run; run.WIDTH = 552; run.DATES = run.DATES[::3];"
    "from catalog.cli import main; main()"
)


def test_the_demo_from_nothing(tmp_path: Path) -> None:
    """In a process of its own, with every proxy pointing at a closed port."""
    directory = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-c", SMALL, "demo", str(directory)],
        capture_output=True,
        text=True,
        timeout=170,
        env=child_environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stdout
    assert "synthetic" in said.splitlines()[0]
    assert "The pixels are made up" in said
    assert "nothing to do" in said
    assert "the server counted 162 requests for 9 scenes of 18 files" in said

    for name in ("quicklook.png", "ndvi.png"):
        assert (directory / name).read_bytes().startswith(b"\x89PNG")
    archive = load_archive(directory / "archive")
    (item,) = (item for item in archive.items["earth-search-c1"] if "10TFR_20230216" in item["id"])
    # What is left needs no server.
    with catalog.connect(config=directory / "cogcat.toml") as cat:
        assert cat.search().count() == 9
        scene = cat.scene(item["id"])
        ours = scene.open(resolution=10, bands=["red"])["red"]
        with rasterio.open(archive.path(item["assets"]["red"]["href"])) as source:
            np.testing.assert_array_equal(ours, source.read(1))
        assert cat.cube("11TLL", bands=["red", "scl"]).sizes["time"] == 3
    found = run_cli("search", "--format", "ids", "--config", str(directory / "cogcat.toml"))
    assert len(found.stdout.split()) == 9


@pytest.mark.parametrize("occupied", ["directory", "file"])
def test_the_demo_touches_nothing_of_yours(tmp_path: Path, occupied: str) -> None:
    mine = tmp_path / "mine"
    if occupied == "directory":
        mine.mkdir()
        (mine / "thesis.txt").write_text("years of work")
    else:
        mine.write_text("years of work")
    before = sorted(os.walk(tmp_path))
    done = run_cli("demo", str(mine))
    assert done.exit_code == 2
    assert "mine" in done.stderr
    assert sorted(os.walk(tmp_path)) == before


def test_the_server_says_what_is_in_its_way(tmp_path: Path) -> None:
    """Before it makes an archive; one that was interrupted is made to its end."""

    def start(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "catalog.demo.server", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = start(tmp_path / "archive", "--port", port)
    assert taken.returncode == 2
    assert taken.stderr.endswith(f"port {port} is taken: give another with --port, or 0\n")
    assert not (tmp_path / "archive").exists()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert "not empty and no archive" in start(tmp_path / "full").stderr

    (tmp_path / "half" / "files").mkdir(parents=True)
    (tmp_path / "half" / BEGUN).touch()
    command = [sys.executable, "-m", "catalog.demo.server", tmp_path / "half", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("http://127.0.0.1:")
        running.terminate()
    assert load_archive(tmp_path / "half").items
    assert not (tmp_path / "half" / BEGUN).exists()
