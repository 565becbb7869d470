"""A scene as the repository alone describes it, where its STAC item is not at hand. Pure.

What only the item says is None, or what the tile and the id say for certain; a warning says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from catalog.bands import band_place
from catalog.contents import StoredScene
from catalog.cube import Grid
from catalog.errors import UsageError
from catalog.footprint import stored_footprint
from catalog.ground import grid_ground
from catalog.parse import parse_platform
from catalog.scene import Asset, Scene
from catalog.settings import Source
from catalog.sources import href_of

NO_ITEM = hashlib.sha256(b"").hexdigest()
"""``item_sha256`` where there was no item: a crawl takes any that it meets for a changed one."""
BOA_EVIDENCE = "boa_offset of the repository"


def itemless_scene(
    stored: StoredScene, *, collection: str, tile: str, epsg: int, sources: Sequence[Source]
) -> Scene:
    """The scene of ``stored``; its footprint is the whole ground its grid covers.

    Raises:
        ConfigError: a file lies in a container that no source has the name of.
    """
    wkb, bbox = grid_footprint(stored.grid)
    platform, baseline = _said_by_id(stored.id, tile)
    unknown = [
        name
        for name, value in (("platform", platform), ("processing baseline", baseline))
        if value is None
    ]
    return Scene(
        id=stored.id,
        collection=collection,
        dialect="generic",
        tile=tile,
        epsg=epsg,
        datetime=stored.time,
        platform=platform,
        cloud_cover=None,
        baseline=baseline,
        acquisition=None,
        footprint=wkb,
        bbox=bbox,
        created=None,
        updated=None,
        boa_offset=stored.boa_offset,
        boa_evidence=BOA_EVIDENCE,
        warnings=(
            "recorded from the repository, without its item: the footprint is the whole tile, "
            "the time is in whole seconds; not known are cloud cover, "
            + "".join(f"{name}, " for name in unknown)
            + "created and updated.",
        ),
        item_sha256=NO_ITEM,
        assets=tuple(
            Asset(
                band=band,
                key=band,
                href=href_of(stored.files[band].location, sources),
                size=None,
                checksum=None,
                shape=None,
                transform=None,
            )
            for band in sorted(stored.files, key=band_place)
        ),
    )


def grid_footprint(grid: Grid) -> tuple[bytes, tuple[float, float, float, float]]:
    """What a grid covers, as ``footprint.footprint`` gives it."""
    return stored_footprint(grid_ground(grid.epsg, grid.transform, grid.width, grid.height))


def _said_by_id(scene: str, tile: str) -> tuple[str | None, str | None]:
    """Platform and baseline, where the id is made as a known catalog makes its ids: it begins with
    the spacecraft and names the tile."""
    match = re.fullmatch(r"(S2[A-Z])_(?:.*_)?T?(\d{1,2}[A-Z]{3})_.*", scene, re.ASCII)
    if match is None or match[2].zfill(5) != tile:
        return None, None
    try:
        platform = parse_platform(match[1])
    except UsageError:
        return None, None
    product = re.search(r"_N(\d{2})(\d{2})_", scene, re.ASCII)
    return platform, f"{product[1]}.{product[2]}" if product else None
