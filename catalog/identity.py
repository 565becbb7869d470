"""Which repository it is that stands at a place: by what ``main`` says, and by what SQL holds.

Anyone may commit to ``main``. The id in it is believed where the database knows it for the place,
which costs nothing; otherwise ``main``'s history and the recorded branches are looked at, so that
a repository whose ``main`` was changed is not taken for a new one that is empty.
"""

from __future__ import annotations

import logging

from sqlalchemy import Engine

from catalog import heads, registry
from catalog.database import read_transaction
from catalog.errors import ConfigError, NotFoundError, StoreError
from catalog.recorded import KnownRepository
from catalog.repository import Repository

log = logging.getLogger(__name__)

TRIED = 3
"""Recorded heads of a known repository that are looked for in one."""


def identify(engine: Engine, repository: Repository, *, replaced: bool = False) -> str:
    """The id under which the database is to know the repository. One statement, and no request
    where it knows it so already.

    Args:
        replaced: a repository other than the one that was known at this place may stand there.

    Raises:
        StoreError: others have changed ``main``, which says another id than it did.
        ConfigError: it is not cogcat's; or not the one that the database knows there.
    """
    with read_transaction(engine) as connection:
        known = registry.known_repositories(connection)
    before = known_at(known, repository.location)
    if before is not None and repository.said_id == before.uid:
        return before.uid
    check_main(repository)
    for one in known:
        if one.uid != repository.said_id and _holds(engine, repository, one):
            raise StoreError(
                _changed(repository, f"holds the commits of {one.uid}, which the catalog records")
            )
    if before is not None and not replaced:
        raise ConfigError(other_id(repository, before))
    return repository.id


def check_main(repository: Repository) -> None:
    """That ``main`` says what it said first.

    Raises:
        StoreError: others have committed another id to it, or none.
    """
    first = repository.first_id()
    if first is not None and repository.said_id != first[1]:
        raise StoreError(_changed(repository, f"said {first[1]} first, at snapshot {first[0]}"))


def known_at(known: list[KnownRepository], location: str) -> KnownRepository | None:
    """The one that was seen last at a place."""
    return next((one for one in known if one.location == location), None)


def other_id(repository: Repository, known: KnownRepository) -> str:
    """What is said where a repository is not the one that the database knows there."""
    return (
        f"repository {repository.location} has the id {repository.id}, the one that the catalog "
        f"knows there has {known.uid}: run `cogcat init` if it was replaced"
    )


def is_still(repository: Repository, known: KnownRepository) -> bool:
    """Whether it is the one that the database knows there, for a reader; whatever others have
    committed to ``main`` since."""
    if repository.said_id == known.uid:
        return True
    first = repository.first_id()
    if first is None or first[1] != known.uid:
        return False
    log.warning("%s", _changed(repository, f"said {known.uid} first"))
    return True


def reset_main(engine: Engine, repository: Repository) -> None:
    """Makes ``main`` say again which repository it is.

    Raises:
        ConfigError: nothing tells which.
    """
    with read_transaction(engine) as connection:
        known = registry.known_repositories(connection)
    before = known_at(known, repository.location)
    first = repository.first_id()
    whose = next((one.uid for one in known if _holds(engine, repository, one)), None)
    uid = whose or (before.uid if before else first[1] if first else None)
    if uid is None:
        raise ConfigError(f"nothing tells which repository of cogcat's {repository.location} is")
    if repository.said_id == uid:
        return
    if first is not None and first[1] == uid:
        repository.reset("main", first[0])
    else:
        repository.introduce_again(uid)
    log.warning("main of %s: says %s again", repository.location, uid)


def _holds(engine: Engine, repository: Repository, known: KnownRepository) -> bool:
    """Whether it has commits that are recorded of a repository."""
    with read_transaction(engine) as connection:
        recorded = heads.branch_heads(connection, known.key)
    if not recorded:
        return False
    there = repository.branches()
    for name in [name for name in recorded if name in there][:TRIED]:
        head = recorded[name].snapshot_id
        if head == repository.first_snapshot():
            continue
        try:
            repository.store(head)
        except NotFoundError:
            continue
        return True
    return False


def _changed(repository: Repository, otherwise: str) -> str:
    return (
        f"branch main of {repository.location}: others have committed to it: at snapshot "
        f"{repository.head('main')} it says that the repository is {repository.said_id!a:.100}, "
        f"which {otherwise}: `cogcat repair --reset main` sets it back"
    )
