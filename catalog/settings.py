"""Settings: the only reader of the environment and of ``cogcat.toml``.

In order: arguments, environment (``COGCAT_DATABASE``, ``COGCAT_REPOSITORY``,
``COGCAT_CONFIG``), ``cogcat.toml``, defaults in the working directory.
Secrets (object-store keys) are read by the object-store clients from their own
environment variables; none is kept here, so none can be logged or stored.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from catalog.errors import ConfigError

DEFAULT_DATABASE = "sqlite:///cogcat.db"
DEFAULT_REPOSITORY = "./cogcat-repo"
DEFAULT_CONFIG = "cogcat.toml"
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
DEFAULT_COLLECTION = "sentinel-2-c1-l2a"
PLANETARY_COMPUTER = "planetary-computer"
OVERDUE = timedelta(hours=26)
"""Without a crawl that ended well a watch is overdue: a day's cron, and two hours to run."""
AZURE_URL = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/([^/]+)/(.*)")


@dataclass(frozen=True, slots=True)
class Source:
    """Where files whose href starts with ``match`` are read: headers now, pixels later.

    A reference is stored as ``vcc://{name}/{key}``, so that a repository can be
    pointed at a mirror by changing ``url`` alone.
    """

    name: str
    """Of the virtual chunk container; part of every reference, so it never changes."""
    match: str
    """Prefix of the href as in the item, ending in ``/``."""
    url: str
    """Prefix it becomes: ``s3://bucket/``, ``https://…/``, ``file:///…/``; ends in ``/``. With
    ``sign`` an Azure container's, ``https://{account}.blob.core.windows.net/{container}/``."""
    region: str | None = None
    endpoint: str | None = None
    """Of an S3-compatible or Azure-compatible server; ``http://`` is allowed."""
    anonymous: bool = True
    """Unsigned requests; False takes keys from the environment (S3 only)."""
    requester_pays: bool = False
    """The requests say that their account pays (S3 only); they are signed, whatever
    ``anonymous`` says."""
    sign: str | None = None
    """Who gives the tokens that sign requests: ``planetary-computer``, or nobody."""

    def __post_init__(self) -> None:
        for name in ("name", "match", "url"):
            if not getattr(self, name):
                raise ConfigError(f"source {self.name or self.match!r}: {name!r} is missing")
        if "/" in self.name:
            raise ConfigError(f"source {self.name!r}: a name has no '/'")
        for name in ("match", "url"):
            value = getattr(self, name)
            if not value.endswith("/"):
                object.__setattr__(self, name, value + "/")
        if urlsplit(self.url).scheme not in ("s3", "http", "https", "file"):
            raise ConfigError(
                f"source {self.name!r}: url {self.url!r} must start with s3://, https://, http:// "
                "or file://"
            )
        if self.sign is not None:
            if self.sign != PLANETARY_COMPUTER:
                raise ConfigError(
                    f"source {self.name!r}: sign is {self.sign!r}, and only "
                    f"{PLANETARY_COMPUTER!r} is known"
                )
            if not AZURE_URL.match(self.url):
                raise ConfigError(
                    f"source {self.name!r}: with sign, url {self.url!r} must be "
                    "https://ACCOUNT.blob.core.windows.net/CONTAINER/"
                )
        if self.requester_pays and self.scheme != "s3":
            raise ConfigError(f"source {self.name!r}: requester_pays is for s3:// urls only")

    @property
    def scheme(self) -> str:
        """``s3``, ``http``, ``https`` or ``file``; ``az`` where requests are signed."""
        return "az" if self.sign else urlsplit(self.url).scheme

    @property
    def container_url(self) -> str:
        """Prefix of the repository's virtual chunk container: ``url``, or Azure's spelling."""
        if self.scheme != "az":
            return self.url
        _, container, prefix = self.azure
        return f"az://{container}/{prefix}"

    @property
    def azure(self) -> tuple[str, str, str]:
        """Storage account, container, and what follows it in ``url``: empty, or ending in ``/``."""
        found = AZURE_URL.match(self.url)
        assert found is not None, self.url
        return found[1], found[2], found[3]


BUILT_IN_SOURCES: tuple[Source, ...] = (
    Source(
        name="earth-search-c1",
        match="https://e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com/",
        url="s3://e84-earth-search-sentinel-data/",
        region="us-west-2",
    ),
    Source(
        name="earth-search-v1",
        match="https://sentinel-cogs.s3.us-west-2.amazonaws.com/",
        url="s3://sentinel-cogs/",
        region="us-west-2",
    ),
    Source(
        name=PLANETARY_COMPUTER,
        match="https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/",
        url="https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/",
        sign=PLANETARY_COMPUTER,
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What every command and ``catalog.connect`` start from."""

    database: str = DEFAULT_DATABASE
    """SQLAlchemy URL."""
    repository: str = DEFAULT_REPOSITORY
    """Path or ``s3://bucket/prefix``."""
    sources: tuple[Source, ...] = BUILT_IN_SOURCES
    """The user's own first: the first that matches wins. One of the user's replaces the built-in
    of the same name or url."""
    repository_options: Mapping[str, str] = field(default_factory=dict)
    """``region``, ``endpoint`` and ``anonymous`` of an S3 repository, from ``[repository]``."""


def load_settings(
    *,
    database: str | None = None,
    repository: str | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Settings:
    """Settings from arguments, environment, file and defaults, in that order.

    Raises:
        ConfigError: the file does not exist though it was named, is not TOML,
            or has a key or value that is not known.
    """
    named = config or os.environ.get("COGCAT_CONFIG")
    path = Path(named or DEFAULT_CONFIG)
    document: dict[str, Any] = {}
    if named or path.exists():
        document = _read(path)
    unknown = set(document) - {"database", "repository", "sources"}
    if unknown:
        raise ConfigError(f"{path}: unknown key {sorted(unknown)[0]!r}")
    repository_table = document.get("repository", {})
    if not isinstance(repository_table, dict):
        repository_table = {"location": repository_table}
    for key, value in (
        ("database", document.get("database", "")),
        ("repository", repository_table.get("location", "")),
    ):
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key} is {value!r}, not text")
    in_file = repository_table.get("location")
    options = _s3_options_of_environment() | repository_table
    options.pop("location", None)
    if extra := set(options) - {"region", "endpoint", "anonymous"}:
        raise ConfigError(f"{path}: unknown key {sorted(extra)[0]!r} in [repository]")
    return Settings(
        database=database
        or os.environ.get("COGCAT_DATABASE")
        or document.get("database")
        or DEFAULT_DATABASE,
        repository=repository
        or os.environ.get("COGCAT_REPOSITORY")
        or in_file
        or DEFAULT_REPOSITORY,
        sources=_with_built_in(_sources(document.get("sources", []), path)),
        repository_options={key: str(value) for key, value in options.items()},
    )


def _s3_options_of_environment() -> dict[str, str]:
    """The AWS SDKs' own variables, which icechunk does not all read."""
    env = os.environ
    found = {
        "region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
        "endpoint": env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"),
    }
    return {key: value for key, value in found.items() if value}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _sources(tables: Any, path: Path) -> list[Source]:
    known = Source.__dataclass_fields__
    sources: list[Source] = []
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: sources are written as [[sources]] tables")
    for number, table in enumerate(tables, 1):
        if unknown := set(table) - set(known):
            raise ConfigError(f"{path}: unknown key {sorted(unknown)[0]!r} in [[sources]] {number}")
        if missing := {"match", "url"} - set(table):
            raise ConfigError(f"{path}: [[sources]] {number} has no {sorted(missing)[0]!r}")
        for key, value in table.items():
            switch = known[key].type == "bool"
            if not isinstance(value, bool if switch else str):
                kind = "true or false" if switch else "text"
                raise ConfigError(f"{path}: {key!r} in [[sources]] {number} is not {kind}")
        # A name stands in every reference, so it must not depend on the order of the tables.
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", str(table["match"]).partition("://")[2]).strip("-")
        sources.append(Source(**{"name": plain or f"source-{number}", **table}))
    for key in ("name", "url"):
        values = [getattr(source, key) for source in sources]
        for value in values:
            if values.count(value) > 1:
                raise ConfigError(f"{path}: two [[sources]] have the {key} {value!r}")
    return sources


def _with_built_in(sources: Sequence[Source]) -> tuple[Source, ...]:
    """A repository has one container per name and per url, so one source has each."""
    taken = {value for source in sources for value in (source.name, source.url)}
    return (
        *sources,
        *(s for s in BUILT_IN_SOURCES if s.name not in taken and s.url not in taken),
    )
