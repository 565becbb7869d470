"""What a crawl did, in numbers and by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from catalog.errors import SceneError
from catalog.recorded import CrawlCounts

log = logging.getLogger(__name__)

FAILURES = 1_000
"""That a report names; it counts all."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One scene that was not indexed."""

    scene: str
    reason: str


@dataclass(slots=True)
class Report:
    """What a crawl did; counts as in the contract, and the failures by name."""

    found: int = 0
    """Items the search returned that match the question."""
    new: int = 0
    """Scenes not indexed before, or withdrawn since: earlier failures among them."""
    changed: int = 0
    """Scenes whose item is another than the one indexed, or was since and failed."""
    unchanged: int = 0
    """Scenes whose item is byte for byte as indexed: no file of theirs is asked for, unless it was
    to be read again and is the same."""
    reread: int = 0
    """Scenes whose item is as indexed, and whose files are read all the same: as asked for. They
    are ``unchanged`` or ``changed`` when that is known."""
    parked: int = 0
    """Items that failed more than once and are not due yet: no file of theirs is asked for."""
    retried: int = 0
    """Scenes taken up again that no search had to return."""
    indexed: int = 0
    """Scenes written to the store."""
    incomplete: int = 0
    """Of the scenes indexed, those without a band whose file cannot be read."""
    updated: int = 0
    """Changed items whose files are as they were: recorded, not written."""
    failed: int = 0
    withdrawn: int = 0
    """Scenes whose items are gone from the source."""
    duplicates: int = 0
    """Of the scenes indexed, those that another scene is the same acquisition as."""
    commits: int = 0
    requests: int = 0
    """GET requests to files."""
    seconds: float = 0.0
    recovered: int = 0
    """Scenes that an earlier crawl committed and did not live to record."""
    watermark: datetime | None = None
    """Newest ``updated`` of the items found, UTC; None where the source does not say."""
    interrupted: bool = False
    failures: list[Failure] = field(default_factory=list, repr=False)
    """The first ``FAILURES``; the catalog records all."""

    def counts(self) -> CrawlCounts:
        names = CrawlCounts.__dataclass_fields__
        return CrawlCounts(**{name: getattr(self, name) for name in names})

    def add(self, other: Report) -> None:
        """What another crawl of the same command did."""
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.interrupted = self.interrupted or other.interrupted
        self.failures += other.failures

    def counted(self) -> dict[str, Any]:
        """Where the counts are, for ``count_again``."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return found | {"failures": list(self.failures)}

    def count_again(self, before: Mapping[str, Any]) -> None:
        """Takes back what was counted since ``before``: it is done anew."""
        for name, value in before.items():
            setattr(self, name, value)

    def fail(self, scene: str, error: SceneError, crawl: int) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES:
            self.failures.append(Failure(scene, str(error)))
        extra = {"scene": scene, "band": error.band, "href": error.href, "crawl": crawl}
        log.warning("%s", error, extra=extra)


_COUNTED = tuple(
    one.name for one in fields(Report) if one.name not in ("watermark", "interrupted", "failures")
)
