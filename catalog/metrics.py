"""Prometheus metrics of a run of ``cogcat crawl``, in the text format of its file collector.

What an alert needs: ``cogcat_watch_last_success_timestamp_seconds`` (``time() - it`` is how long
a watch has been quiet), ``cogcat_watch_newest_scene_timestamp_seconds`` (its lag),
``cogcat_scenes{status="failed"}``, ``cogcat_parked`` and ``cogcat_crawl_ok``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.errors import UsageError
from catalog.recorded import STATUSES

COUNTS = {
    "found": "Items the search returned.",
    "new": "Scenes not indexed before.",
    "changed": "Scenes whose item has changed.",
    "unchanged": "Scenes whose item is as indexed.",
    "indexed": "Scenes indexed.",
    "failed": "Scenes that could not be indexed.",
    "withdrawn": "Scenes gone from the source.",
    "commits": "Commits to the repository.",
    "requests": "GET requests to files.",
    "seconds": "Time it took.",
}


def render(
    reports: Mapping[str, Any], summary: Mapping[str, Any], *, failed: tuple[str, ...], now: float
) -> str:
    """The file's text.

    Args:
        reports: by watch, or under an empty name where there was none.
        summary: of ``Catalog.status``, after the run.
        failed: watches whose crawl broke off with an error.
        now: when the run ended, seconds since 1970.
    """
    return "\n".join(_lines(reports, summary, failed, now)) + "\n"


def _lines(
    reports: Mapping[str, Any], summary: Mapping[str, Any], failed: tuple[str, ...], now: float
) -> Iterator[str]:
    for key, text in COUNTS.items():
        values = {_watch(name): getattr(report, key) for name, report in reports.items()}
        yield from _metric(f"crawl_{key}", f"{text} In the last run.", values)
    ended = {_watch(name): int(not report.interrupted) for name, report in reports.items()}
    ended |= {_watch(name): 0 for name in failed}
    yield from _metric("crawl_ok", "1 where the last crawl ended well.", ended)
    yield from _metric("run_timestamp_seconds", "When the last run ended.", {"": now})
    watches = summary["watches"]
    for name, key, text in (
        ("last_success", "last_finished_at", "When a crawl of the watch last ended well."),
        ("newest_scene", "newest", "Acquisition of the newest scene of the watch."),
    ):
        values = {_watch(w["name"]): _seconds(w[key]) for w in watches if w[key] is not None}
        yield from _metric(f"watch_{name}_timestamp_seconds", text, values)
    overdue = {_watch(w["name"]): int(w["overdue"]) for w in watches}
    yield from _metric("watch_overdue", "1 without a good crawl for more than 26 hours.", overdue)
    states = {f'{{status="{state}"}}': summary["scenes"].get(state, 0) for state in STATUSES}
    yield from _metric("scenes", "Scenes of the catalog by state.", states)
    yield from _metric("parked", "Failures that wait for their time.", {"": summary["parked"]})
    yield from _metric("due", "Failures the next crawl tries again.", {"": summary["due"]})
    yield from _metric("incomplete", "Scenes without a band that cannot be read.",
                       {"": summary["incomplete"]})  # fmt: skip
    yield from _metric("unreadable_items", "Items that are no scene.",
                       {"": summary["unreadable_items"]})  # fmt: skip
    yield from _metric("snapshots", "Recorded commits.", {"": summary["snapshots"]})


def _metric(name: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    if values:
        yield f"# HELP cogcat_{name} {text}"
        yield f"# TYPE cogcat_{name} gauge"
    for labels, value in values.items():
        yield f"cogcat_{name}{labels} {value}"


def _watch(name: str) -> str:
    # Its letters need no escape: ``watches.NAME``.
    return f'{{watch="{name}"}}' if name else ""


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def write(path: Path, text: str) -> None:
    """Written beside and moved, so that the file is never half there.

    Raises:
        UsageError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"--metrics {path}: {error.strerror}") from error
