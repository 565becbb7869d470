"""What a crawl did, in numbers and by name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime

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
    """Scenes whose item is byte for byte as indexed: no file of theirs is asked for."""
    parked: int = 0
    """Items that failed more than once and are not due yet: no file of theirs is asked for."""
    retried: int = 0
    """Scenes taken up again that no search had to return."""
    indexed: int = 0
    """Scenes written to the store."""
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

    def fail(self, scene: str, error: SceneError, crawl: int) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES:
            self.failures.append(Failure(scene, str(error)))
        extra = {"scene": scene, "band": error.band, "href": error.href, "crawl": crawl}
        log.warning("%s", error, extra=extra)
