"""The command ``status``: what the catalog holds, in 80 columns."""

from __future__ import annotations

import textwrap
from datetime import timedelta
from typing import Any

import click

import catalog
from catalog.cli_options import Command, json_option, print_json, print_table, say, settings_options
from catalog.settings import OVERDUE, load_settings

BRANCHES = FAILURES = 20
"""Rows shown; ``--json`` has all branches."""


@click.command(cls=Command)
@click.option("--store", is_flag=True, help="Measure the repository too: lists all its objects.")
@click.option("--overdue", "overdue_hours", type=click.FloatRange(min=0), metavar="HOURS",
              default=OVERDUE.total_seconds() / 3600, show_default=True,
              help="A watch without a good crawl for so long is overdue.")  # fmt: skip
@settings_options
@json_option
def status(
    store: bool,
    overdue_hours: float,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """What the catalog holds: scenes by state, watches and their lag, last crawls, missing bands,
    failures."""
    settings = load_settings(database=database, repository=repository, config=config)
    with catalog.Catalog(settings) as cat:
        found = cat.status(store=store, overdue_after=timedelta(hours=overdue_hours))
    if as_json:
        print_json(found)
        return
    _totals(found)
    _branches(found["branches"])
    _watches(found["watches"])
    _crawls(found["crawls"])
    _incomplete(found)
    _failures(found)


def _totals(found: dict[str, Any]) -> None:
    states = ", ".join(f"{n} {state}" for state, n in found["scenes"].items()) or "none"
    changed = f", {found['outdated']} of them changed since" if found["outdated"] else ""
    if found["incomplete"]:
        changed += f", {found['incomplete']} without a band that cannot be read"
    if found["duplicates"]:
        changed += f", {found['duplicates']} an acquisition that is there twice"
    say(f"database   {found['database']}")
    say(f"repository {found['repository']}")
    if found["store"]:
        size = found["store"]
        say(f"store      {_bytes(size['bytes'])} in {size['objects']} objects")
    say(f"snapshots  {found['snapshots']} on {len(found['branches'])} branches")
    say(f"scenes     {states}{changed}")
    for name, count in found["collections"].items():
        tiles = len({row["tile"] for row in found["counts"] if row["collection"] == name})
        say(f"           {count} of {name} on {tiles} tiles")
    if found["newest"]:
        say(f"newest     {_minute(found['newest'])}, {_ago(found['lag_seconds'])} ago")
    if found["lease"]:
        held = found["lease"]
        since, until = (_second(held[key]) or "?" for key in ("since", "until"))
        say(f"lease      {held['holder']}")
        say(f"           since {since}, good until {until} UTC")


def _branches(branches: list[dict[str, Any]]) -> None:
    rows = [row for row in branches if row["scenes"]]
    if not rows:
        return
    say()
    print_table(
        ("branch", "scenes", "first", "last", "head"),
        [
            (row["branch"], row["scenes"], row["first"][:10], row["last"][:10], row["head"])
            for row in sorted(rows, key=lambda row: row["last"], reverse=True)[:BRANCHES]
        ],
    )
    if len(rows) > BRANCHES:
        say(f"… and {len(rows) - BRANCHES} more, whose last scenes are older")


def _watches(watches: list[dict[str, Any]]) -> None:
    if not watches:
        return
    say()
    print_table(
        ("watch", "newest scene", "lag", "last good crawl", "since", ""),
        [
            (
                textwrap.shorten(row["name"], 20, placeholder="…"),
                _minute(row["newest"]),
                _ago(row["lag_seconds"]),
                _minute(row["last_finished_at"]) or "never",
                _ago(row["quiet_seconds"]),
                "OVERDUE" if row["overdue"] else "",
            )
            for row in watches
        ],
    )


def _crawls(crawls: list[dict[str, Any]]) -> None:
    if not crawls:
        return
    say()
    print_table(
        ("crawl", "started", "outcome", "found", "indexed", "failed", "seconds"),
        [
            (
                row["id"],
                _minute(row["started_at"]),
                row["outcome"] or "running or killed",
                *(row["counts"][key] for key in ("found", "indexed", "failed")),
                f"{row['counts']['seconds']:.1f}",
            )
            for row in crawls
        ],
    )


def _incomplete(found: dict[str, Any]) -> None:
    total = found["incomplete"]
    if not total:
        return
    say()
    say(f"incomplete {total}: `cogcat crawl --retry` tries their bands again")
    for row in found["incomplete_scenes"][:FAILURES]:
        say(f"  {row['id']}")
        for band, reason in zip(row["bands"], row["reasons"], strict=True):
            _reason(f"{band}: {reason}")
    if total > FAILURES:
        say(f"  … and {total - FAILURES} more")


def _failures(found: dict[str, Any]) -> None:
    total = found["parked"] + found["due"]
    if not total:
        return
    say()
    say(f"failed     {total}: {found['due']} due now, {found['parked']} parked")
    for row in found["failures"][:FAILURES]:
        wait = row["due_in_seconds"]
        when = f"again in {_ago(wait)}, {_minute(row['next_attempt_at'])}" if wait else "due now"
        say(f"  {row['id']}")
        say(f"    tried {row['attempts']} times, {when}")
        reason = row["reason"].removeprefix(row["id"]).lstrip(": ")
        _reason(reason)
    if total > FAILURES:
        say(f"  … and {total - FAILURES} more")


def _reason(reason: str) -> None:
    # Addresses have no place to break: a long one stays whole on a line of its own.
    for line in textwrap.wrap(reason, 76, break_long_words=False, break_on_hyphens=False):
        say(f"    {line}")


def _minute(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")


def _second(moment: str | None) -> str:
    return "" if moment is None else moment[:19].replace("T", " ")


def _ago(seconds: float | None) -> str:
    """A span of time in one unit: 45 s, 12 min, 30 h, 12 d."""
    if seconds is None:
        return ""
    for size, unit in ((86_400 * 2, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / (86_400 if unit == 'd' else size):.0f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
