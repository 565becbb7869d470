"""What ``cogcat init`` makes, and what ``cogcat crawl`` opens."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from catalog import database, known, lease, registry
from catalog.crawl import Crawl
from catalog.errors import CatalogError, UsageError
from catalog.header import HeaderReader, Reads
from catalog.identity import check_main, identify, reset_main
from catalog.item_file import read_items
from catalog.item_shelf import ItemShelf
from catalog.lease import LeaseRecord
from catalog.models import REVISION
from catalog.rebuild import FindItems, Rebuild, Rebuilt
from catalog.recovery import Recovered, recover, reset_branches
from catalog.report import Report
from catalog.repository import Repository
from catalog.settings import Settings, Source, stac_access
from catalog.sieve import Tried
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items
from catalog.upkeep import Upkeep, maintain

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SetUp:
    """What there is after ``set_up``."""

    database: str
    """URL without its password."""
    revision: str
    repository: str
    containers: tuple[str, ...]


def set_up(settings: Settings) -> SetUp:
    """Migrates the database to this version's revision and creates or opens the repository.

    Raises:
        ConfigError: the database or the storage does not answer or does not fit, or the object
            store ignores conditional writes.
    """
    for source in settings.sources:
        if source.requester_pays:
            log.warning(
                "source %r: headers can be read at your cost, pixels not: icechunk 2.3 does not "
                "say to the bucket that the requester pays; copy the files to a bucket of your own",
                source.name,
            )
    engine = database.open_engine(settings.database)
    try:
        database.check_migratable(engine)
        with database.set_up_alone(engine):
            # The repository first: a refused one leaves no half-made database behind.
            repository = Repository.create(
                settings.repository, settings.sources, settings.repository_options
            )
            check_main(repository)
            database.migrate(engine)
            introduce(engine, repository, settings.sources)
        return SetUp(
            database.shown(settings.database),
            REVISION,
            repository.location,
            tuple(sorted(repository.containers)),
        )
    finally:
        engine.dispose()


def introduce(engine: Engine, repository: Repository, sources: Sequence[Source]) -> None:
    """Writes down which repository it is, and where files are read: of a database whose schema is
    this version's."""
    uid = identify(engine, repository, replaced=True)
    with database.write_transaction(engine) as connection:
        registry.register_repository(connection, uid, repository.location)
        registry.register_sources(connection, sources)


def open_crawl(
    settings: Settings,
    *,
    bands: Sequence[str] | None = None,
    require: Sequence[str] = (),
    concurrency: int = 32,
    dry_run: bool = False,
    on_progress: Callable[[Report], None] | None = None,
    retry: bool = False,
    reread: bool = False,
    wait: float | None = 0.0,
    reader: Reads | None = None,
    tried: Tried | None = None,
) -> Crawl:
    """A crawl over what ``settings`` name; its arguments are those of ``Crawl``.

    Raises:
        ConfigError: there is no catalog or repository yet, it is at another revision, or the
            repository is not one of cogcat's.
    """
    engine, repository = open_catalog(settings)
    return Crawl(
        engine,
        repository,
        settings.sources,
        bands=bands,
        require=require,
        concurrency=concurrency,
        dry_run=dry_run,
        on_progress=on_progress,
        retry=retry,
        reread=reread,
        wait=wait,
        reader=reader,
        tried=tried,
    )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where some items come from."""

    collection: str | None
    """None where the catalog does not know the items."""
    stac: str | None
    """URL of the API; None where it knows none."""
    ids: tuple[str, ...]


def origins(settings: Settings, ids: Sequence[str], collection: str | None = None) -> list[Origin]:
    """The collections and APIs that the catalog has the items from, each with its ids; those that
    it does not know come last.

    Args:
        collection: that they are of; None for any.

    Raises:
        ConfigError: as ``open_crawl``.
        UsageError: some were indexed from a file, and there is no API to ask for them.
    """
    engine, repository = open_catalog(settings)
    try:
        uid = identify(engine, repository)
        with database.read_transaction(engine) as connection:
            known_here = registry.known_repositories(connection)
            key = next((one.key for one in known_here if one.uid == uid), 0)
            found = known.origins(connection, key, ids, collection)
    finally:
        engine.dispose()
    places: dict[tuple[str, str | None], list[str]] = {}
    for item, name, stac in found:
        if stac is None:
            raise UsageError(
                f"{item} of {name} was indexed from a file of items: give it with --items FILE, or "
                "an API with --stac URL"
            )
        places.setdefault((name, stac), []).append(item)
    made = [Origin(name, stac, tuple(items)) for (name, stac), items in places.items()]
    held = {item for item, _, _ in found}
    if strange := tuple(item for item in dict.fromkeys(ids) if item not in held):
        made.append(Origin(None, None, strange))
    return made


def open_catalog(settings: Settings) -> tuple[Engine, Repository]:
    """Database and repository as ``settings`` name them, for writing.

    Raises:
        ConfigError: as ``open_crawl``.
    """
    engine = database.open_engine(settings.database)
    try:
        database.check_revision(engine)
        return engine, Repository.open(
            settings.repository, settings.sources, settings.repository_options, forgetful=True
        )
    except CatalogError:
        engine.dispose()
        raise


def repair(settings: Settings, *, wait: float | None = 0.0, reset: Sequence[str] = ()) -> Recovered:
    """Records what crawls that died had committed; the first thing every crawl does.

    Args:
        reset: branches to set back to their recorded heads first: what others, or crawls that
            died, committed since is no more in their histories. ``main``: to what it said of the
            repository.

    Raises:
        UsageError: the catalog records no branch of ``reset``.
        ConfigError: as ``open_crawl``.
        BusyError: a crawl is writing.
        StoreError: the repository is not the one the catalog records, or holds commits that are
            not cogcat's.
    """
    engine, repository = open_catalog(settings)
    try:
        if "main" in reset:
            reset_main(engine, repository)
        key = _register(engine, repository)
        with lease.held(engine, key, wait=wait):
            reset_branches(engine, repository, key, [name for name in reset if name != "main"])
            return asyncio.run(
                recover(engine, repository, key, HeaderReader(settings.sources), None)
            )
    finally:
        engine.dispose()


def break_lease(settings: Settings, *, though_alive: bool = False) -> LeaseRecord | None:
    """Takes the lease on the repository from whoever holds it; whose it was, None for nobody's.

    Args:
        though_alive: also from a process of this machine that is running.

    Raises:
        ConfigError: as ``open_crawl``.
        BusyError: the holder is running on this machine.
    """
    engine, repository = open_catalog(settings)
    try:
        return lease.break_lease(engine, _register(engine, repository), though_alive=though_alive)
    finally:
        engine.dispose()


def rebuild(
    settings: Settings,
    *,
    stac: str | None = None,
    items: str | os.PathLike[str] | None = None,
    collection: str | None = None,
    wait: float | None = 0.0,
    on_progress: Callable[[Rebuilt], None] | None = None,
) -> Rebuilt:
    """Records in an empty database (made, if there is none) what the repository holds; one that a
    rebuild before it left, or an old copy, is completed.

    Args:
        stac: URL of the API to ask for the scenes' items.
        items: file of items, in place of an API.
        collection: whose branches are recorded; None for all.

    Raises:
        UsageError: both ``stac`` and ``items``, or the API or the file does not fit.
        ConfigError: no repository, or the database records another history of it.
        BusyError: a crawl is writing.
        SourceError: the API or the store of the files does not answer; what is recorded stays.
    """
    if stac is not None and items is not None:
        raise UsageError("give an API or a file of items, not both")
    repository = Repository.open(settings.repository, settings.sources, settings.repository_options)
    # One that is refused leaves no new database behind.
    check_main(repository)
    _ = repository.id
    engine = database.open_engine(settings.database)
    with ExitStack() as opened:
        opened.callback(engine.dispose)
        find: FindItems | None = None
        if stac is not None:
            find = lambda name, ids: search_items(  # noqa: E731
                stac, StacQuery.parse(collection=name, ids=ids), **stac_access(stac, settings)
            )
        elif items is not None:
            find = opened.enter_context(ItemShelf(read_items(items))).find
        database.migrate(engine)
        uid = identify(engine, repository)
        with database.write_transaction(engine) as connection:
            key = registry.register_repository(connection, uid, repository.location)
            registry.register_sources(connection, settings.sources)
        held = opened.enter_context(lease.held(engine, key, wait=wait))
        return asyncio.run(
            Rebuild(
                engine,
                repository,
                key,
                settings.sources,
                HeaderReader(settings.sources),
                held,
                find_items=find,
                collection=collection,
                stac=stac,
                on_progress=on_progress,
            ).run()
        )


def keep_up(
    settings: Settings, *, keep: timedelta, dry_run: bool = False, wait: float | None = 0.0
) -> Upkeep:
    """``upkeep.maintain`` under a lease, after ``repair``.

    Raises:
        ConfigError, BusyError, StoreError: as ``repair``.
    """
    engine, repository = open_catalog(settings)
    try:
        key = _register(engine, repository)
        with lease.held(engine, key, wait=wait) as held:
            asyncio.run(recover(engine, repository, key, HeaderReader(settings.sources), None))
            return maintain(
                engine,
                repository,
                key,
                held,
                keep=keep,
                options=settings.repository_options,
                dry_run=dry_run,
            )
    finally:
        engine.dispose()


def _register(engine: Engine, repository: Repository) -> int:
    uid = identify(engine, repository)
    with database.write_transaction(engine) as connection:
        return registry.register_repository(connection, uid, repository.location)
