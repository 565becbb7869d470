"""A scene's files as their headers say: what is indexed of it, and what cannot be. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from catalog.blame import is_everyones, of_scene
from catalog.cube import SceneReferences, scene_references
from catalog.errors import HeaderError, UnreadableFileError
from catalog.header import Header
from catalog.scene import Scene, not_indexed


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """What a scene is indexed with."""

    headers: tuple[Header, ...]
    """In the order of the scene's assets; at least one."""
    references: SceneReferences
    """Of these headers."""
    faults: Mapping[str, HeaderError]
    """Why each other band of the scene is not indexed, in the order of its assets."""


def assemble(
    scene: Scene,
    found: Sequence[Header | HeaderError],
    *,
    last_try: bool,
    lacking: Collection[str] = (),
) -> SceneFiles:
    """What is indexed of ``scene``, whose files gave ``found``, in the order of its assets.

    A file that no reference can ever be made of keeps no other from being indexed. One that is
    missing, damaged or was not given may be there later: until ``last_try`` the scene waits for it,
    but for bands of ``lacking``, without which it is indexed already.

    Raises:
        HeaderError: of the file that keeps the scene from being indexed: one to wait for, one of
            ``scene.required``, or any where no file can be read.
    """
    headers: dict[str, Header] = {}
    faults: dict[str, HeaderError] = {}
    for asset, result in zip(scene.assets, found, strict=True):
        if isinstance(result, Header):
            headers[asset.band] = result
        else:
            faults[asset.band] = result
    references: SceneReferences | None = None
    while headers and references is None:
        try:
            references = scene_references(scene, headers.values())
        except BaseException as error:
            if is_everyones(error):
                raise
            fault = _blamed(scene, headers, error)
            del headers[str(fault.band)]
            faults[str(fault.band)] = fault
    for asset in scene.assets:
        fault_here = faults.get(asset.band)
        if fault_here is not None and (
            references is None
            or asset.band in scene.required
            or not (
                last_try or asset.band in lacking or isinstance(fault_here, UnreadableFileError)
            )
        ):
            raise fault_here
    assert references is not None, scene.id
    ordered = {asset.band: faults[asset.band] for asset in scene.assets if asset.band in faults}
    return SceneFiles(tuple(headers.values()), references, ordered)


def _blamed(scene: Scene, headers: Mapping[str, Header], error: BaseException) -> HeaderError:
    """``error`` with the band that it is about: that of the header that fails alone too."""
    if isinstance(error, HeaderError) and error.band in headers:
        return error
    for band, header in headers.items():
        try:
            scene_references(scene, [header])
        except BaseException as alone:
            if is_everyones(alone):
                raise
            reason = of_scene(alone, None).reason
            return HeaderError(reason, band=band, href=header.asset.href)
    raise error


def why_not(faults: Mapping[str, HeaderError]) -> tuple[str, ...]:
    """A sentence for each band that is not indexed, for the record's warnings."""
    return tuple(not_indexed(band, fault.reason) for band, fault in faults.items())
