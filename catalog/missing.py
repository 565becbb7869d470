"""What becomes of scenes that lack a band which is asked for, or the map they are to be masked by.

Such scenes are common: a file of theirs could not be read, or only some bands were crawled. Their
pixels are never made up: nothing is clear because nobody said that it is cloudy. Pure.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from catalog.errors import NotFoundError
from catalog.json_values import brief

WORDS = (None, "nodata", "drop", "error")
_NAMED = 5
"""Scenes that a message names of many."""
_HERE = str(Path(__file__).parent)


class MissingBandWarning(UserWarning):
    """Scenes of an array lack a band: they read as nodata there. ``missing="nodata"`` says that
    this is meant, ``missing="drop"`` leaves such scenes out, ``missing="error"`` refuses."""


def parse_missing(word: str | None) -> str | None:
    """
    Raises:
        NotFoundError: no such word.
    """
    if not (word is None or isinstance(word, str)) or word not in WORDS:
        known = ", ".join(map(repr, WORDS))
        raise NotFoundError(f"unknown missing={brief(word)}; known are {known}")
    return word


def settle(
    ids: Sequence[str],
    lacks: Sequence[frozenset[str]],
    unmasked: Sequence[bool],
    missing: str | None,
    what: str,
) -> list[int]:
    """The places of the scenes to keep.

    Args:
        ids: item ids.
        lacks: of the bands that are asked for, those that each scene does not have.
        unmasked: True where there is to be a mask, and a scene has no scl to make it of.
        missing: one of ``WORDS``. None warns of bands, and refuses what cannot be masked.
        what: named in errors.

    Raises:
        NotFoundError: a band that no scene has; what ``missing`` does not allow; or ``drop`` leaves
            nothing.
    """
    every = range(len(ids))
    nobody = frozenset.intersection(*lacks) if lacks else frozenset()
    if nobody:
        raise NotFoundError(
            f"{what}: no band {', '.join(sorted(nobody))} in {_named(ids)}: its file could not be "
            "read, or was not crawled"
        )
    if not any(lacks) and not any(unmasked):
        return list(every)
    if missing == "drop":
        keep = [n for n in every if not lacks[n] and not unmasked[n]]
        if not keep:
            raise NotFoundError(f"{what}: no scene has all that is asked for: {_said(ids, lacks)}")
        return keep
    if missing == "error" and any(lacks):
        raise NotFoundError(f"{what}: {_said(ids, lacks)}: missing='drop' leaves these scenes out")
    if missing != "nodata" and any(unmasked):
        bare = [ids[n] for n in every if unmasked[n]]
        raise NotFoundError(
            f"{what}: no band 'scl' to mask {_named(bare)} with: missing='drop' leaves out scenes "
            "that have none, missing='nodata' takes all their pixels for masked"
        )
    if missing is None:
        warnings.warn(
            f"{what}: {_said(ids, lacks)}: nodata there (coordinate missing_bands); "
            "missing='drop' leaves these scenes out, missing='nodata' says that this is meant",
            MissingBandWarning,
            skip_file_prefixes=(_HERE,),
        )
    return list(every)


def _said(ids: Sequence[str], lacks: Sequence[frozenset[str]]) -> str:
    by_band: dict[str, list[str]] = {}
    for item, bands in zip(ids, lacks, strict=True):
        for band in sorted(bands):
            by_band.setdefault(band, []).append(item)
    return "; ".join(f"no {band} in {_named(held)}" for band, held in by_band.items()) or "no scl"


def _named(ids: Sequence[str]) -> str:
    several = list(dict.fromkeys(ids))
    more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
    return ", ".join(several[:_NAMED]) + more
