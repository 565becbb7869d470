"""The offset that turns the DN of a scene into reflectance, and what says so."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from catalog.bands import BY_NAME
from catalog.item_assets import Found
from catalog.json_values import band_list, brief, finite


def boa_offset_of(
    properties: Mapping[str, Any],
    found: Found,
    baseline: str | None,
    baseline_source: str,
    notes: list[str],
) -> tuple[int, str]:
    """(offset in DN, evidence), by the first that speaks; later ones only contradict.

    To be added to the DN of reflectance bands before the scale of 0.0001: 0 or -1000.
    Contradictions go to ``notes``, one sentence each.

    1. ``earthsearch:boa_offset_applied`` true (``sentinel:boa_offset_applied`` in Earth Search v0):
       pixels are shifted already, whatever ``raster:bands`` says (Earth Search v1 lists -0.1
       there all the same).
    2. ``raster:offset`` / ``raster:scale`` of the reflectance bands.
    3. Processing baseline 04.00 and later: -1000 (ESA, Sentinel-2 Products
       Specification Document 14.8, BOA_ADD_OFFSET), earlier: 0.
    """
    by_baseline = None if baseline is None else (-1000 if baseline >= "04.00" else 0)
    by_raster, raster_evidence = _raster_offset(found, by_baseline, notes)
    if applied := _applied(properties, notes):
        if by_raster:
            notes.append(f"{raster_evidence} contradicts {applied}, which is believed.")
        return 0, applied
    if by_raster is not None:
        if by_baseline is not None and by_baseline != by_raster:
            notes.append(
                f"{baseline_source}={baseline} contradicts {raster_evidence}, which is believed."
            )
        return by_raster, raster_evidence
    if by_baseline is not None:
        return by_baseline, f"{baseline_source}={baseline}"
    notes.append(
        "nothing says whether reflectance has an offset (no processing baseline is known); 0 is "
        "assumed."
    )
    return 0, "none"


def _applied(properties: Mapping[str, Any], notes: list[str]) -> str | None:
    """What says that pixels are shifted already."""
    for key in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        applied = properties.get(key)
        if isinstance(applied, bool):
            return f"{key}=true" if applied else None
        if applied is not None:
            notes.append(f"{key} is {brief(applied)}, not true or false.")
    return None


def _raster_offset(
    found: Found, by_baseline: int | None, notes: list[str]
) -> tuple[int | None, str]:
    """What most reflectance bands say; a draw goes to the baseline's side, then to -1000."""
    said: dict[int, list[str]] = {}
    text: dict[int, str] = {}
    strange: list[str] = []
    for band, _, asset in found:
        if not BY_NAME[band].reflectance:
            continue
        for offset, scale in _offsets(asset):
            number, unit = finite(offset), 0.0001 if scale is None else finite(scale)
            # Both are small: what is divided cannot overflow.
            if number is None or abs(number) > 1 or unit is None or not math.isclose(unit, 0.0001):
                strange.append(band)
            elif (shift := round(number / unit)) in (0, -1000):
                said.setdefault(shift, []).append(band)
                text[shift] = f"raster:offset={offset:g}"
            else:
                strange.append(band)
            break
    if strange:
        notes.append(
            f"raster:offset of {band_list(strange)} is neither 0 nor -1000 steps of 0.0001, "
            "and ignored."
        )
    if not said:
        return None, "none"
    votes = Counter({shift: len(bands) for shift, bands in said.items()})
    chosen = max(votes, key=lambda shift: (votes[shift], shift == by_baseline, -shift))
    for shift, bands in said.items():
        if shift != chosen:
            notes.append(
                f"{text[shift]} of {band_list(bands)} contradicts {text[chosen]} of the others, "
                "which is believed."
            )
    return chosen, text[chosen]


def _offsets(asset: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    """(offset, scale) as STAC 1.1 (on the asset or its ``bands``) and 1.0 write them."""
    for holder, prefix in (
        ([asset], "raster:"),
        (asset.get("bands"), "raster:"),
        (asset.get("raster:bands"), ""),
    ):
        for fields in holder if isinstance(holder, list | tuple) else ():
            if isinstance(fields, Mapping) and fields.get(f"{prefix}offset") is not None:
                yield fields[f"{prefix}offset"], fields.get(f"{prefix}scale")
