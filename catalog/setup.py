"""What ``cogcat init`` makes, and what ``cogcat crawl`` opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catalog import database, registry
from catalog.crawl import Crawl, Report
from catalog.errors import CatalogError
from catalog.models import REVISION
from catalog.repository import Repository
from catalog.settings import Settings


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
    engine = database.open_engine(settings.database)
    try:
        # The repository first: a refused one leaves no half-made database behind.
        repository = Repository.create(
            settings.repository, settings.sources, settings.repository_options
        )
        database.migrate(engine)
        with database.write_transaction(engine) as connection:
            registry.register_repository(connection, repository.id, repository.location)
            registry.register_sources(connection, settings.sources)
        return SetUp(
            database.shown(settings.database),
            REVISION,
            repository.location,
            tuple(sorted(repository.containers)),
        )
    finally:
        engine.dispose()


def open_crawl(
    settings: Settings,
    *,
    bands: Sequence[str] | None = None,
    concurrency: int = 32,
    dry_run: bool = False,
    on_progress: Callable[[Report], None] | None = None,
) -> Crawl:
    """A crawl over what ``settings`` name.

    Raises:
        ConfigError: there is no catalog or repository yet, it is at another revision, or the
            repository is not one of cogcat's.
    """
    engine = database.open_engine(settings.database)
    try:
        database.check_revision(engine)
        repository = Repository.open(
            settings.repository, settings.sources, settings.repository_options
        )
    except CatalogError:
        engine.dispose()
        raise
    return Crawl(
        engine,
        repository,
        settings.sources,
        bands=bands,
        concurrency=concurrency,
        dry_run=dry_run,
        on_progress=on_progress,
    )
