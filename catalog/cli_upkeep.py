"""Commands of upkeep: repair, rebuild, maintain."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import timedelta

import click

from catalog.cli_options import (
    FAILED,
    Command,
    json_option,
    patience,
    print_json,
    say,
    settings_options,
    wait_option,
)
from catalog.errors import UsageError
from catalog.json_values import plain
from catalog.settings import check_stac, load_settings


@click.command(cls=Command)
@click.option(
    "--break-lease",
    "breaks",
    is_flag=True,
    help="First take the right to write from a dead crawl, which `status` names.",
)
@click.option("--yes", is_flag=True, help="With --break-lease: from a running process too.")
@click.option("--reset", metavar="BRANCH", multiple=True,
              help="Set a branch back to its recorded head, whoever moved it.")  # fmt: skip
@wait_option
@settings_options
@json_option
def repair(
    breaks: bool,
    yes: bool,
    reset: tuple[str, ...],
    wait: float | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Record what a crawl that died had committed. Every crawl does this first."""
    from catalog.setup import break_lease
    from catalog.setup import repair as mend

    if yes and not breaks:
        raise UsageError("--yes is for --break-lease")
    settings = load_settings(database=database, repository=repository, config=config)
    broken = break_lease(settings, though_alive=yes) if breaks else None
    if breaks and not as_json:
        say(f"the lease was broken of {broken}" if broken else "no lease to break")
    done = mend(settings, wait=patience(wait), reset=reset)
    if as_json:
        print_json(asdict(done) | ({"broken_lease": plain(broken)} if breaks else {}))
    elif not done.commits:
        say("nothing to mend: repository and catalog have the same heads")
    else:
        say(
            f"{done.commits} commits on {done.branches} branches recorded: {done.scenes} scenes, "
            f"{done.withdrawn} withdrawn, {done.pending} left for the next crawl that meets them"
        )


@click.command(cls=Command)
@click.option("--keep-days", type=click.FloatRange(min=0), default=365.0, show_default=True,
              help="Snapshots younger than this still resolve afterwards.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@wait_option
@settings_options
@json_option
def maintain(
    keep_days: float,
    dry_run: bool,
    wait: float | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Expire old snapshots, collect garbage, and remove old copies of the repository's info file.

    Current scenes stay readable, at their branch's head; snapshot ids that are older no longer
    resolve, and the catalog no longer names them.
    """
    from catalog.setup import keep_up

    settings = load_settings(database=database, repository=repository, config=config)
    done = keep_up(settings, keep=timedelta(days=keep_days), dry_run=dry_run, wait=patience(wait))
    if as_json:
        print_json(asdict(done))
        return
    would = "would be " if dry_run else ""
    objects = f"{done.objects_deleted} objects ({done.bytes_deleted / 1e6:.1f} MB)"
    say(
        f"{done.expired} snapshots {would}expired, {done.kept} kept; {objects} and "
        f"{done.copies_deleted} old info files {would}removed, {done.copies_kept} kept"
    )


@click.command(cls=Command)
@click.option("--stac", metavar="URL", is_flag=False, flag_value="",
              help="STAC API to ask for the scenes' items [no URL: settings' own].")  # fmt: skip
@click.option("--items", metavar="FILE", help="Items from a file, not an API.")
@click.option("--collection", metavar="ID", help="Only the scenes of this collection.")
@wait_option
@settings_options
@json_option
def rebuild(
    stac: str | None,
    items: str | None,
    collection: str | None,
    wait: float | None,
    database: str | None,
    repository: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Make a lost database anew from the repository, one small GET per file.

    With the scenes' items, scenes are recorded as crawls had recorded them. Without, the next
    crawl that meets their items completes them. Safe to repeat: it goes on where it was.
    """
    from catalog.setup import rebuild as make_anew

    settings = load_settings(database=database, repository=repository, config=config)
    if stac is not None:
        stac = stac or settings.stac
        check_stac(stac)
    done = make_anew(settings, stac=stac, items=items, collection=collection, wait=patience(wait))
    if as_json:
        print_json(asdict(done))
    elif not done.commits:
        say("nothing to rebuild: the database records every commit of the repository")
    else:
        files = done.files_gone + done.files_changed + done.files_unread
        say(
            f"{done.commits} commits on {done.branches} branches recorded: {done.scenes} scenes "
            f"({done.complete} with their items, {done.partial} for a crawl to complete), "
            f"{done.withdrawn} withdrawn, {done.revisions} earlier states; {files} files "
            f"gone, changed or not read, {done.requests} requests, {done.seconds:.1f} s"
        )
    if done.damaged or (done.partial and (stac or items)):
        sys.exit(FAILED)
