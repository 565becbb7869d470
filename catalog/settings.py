"""Settings: the only reader of the environment and of ``cogcat.toml``.

In order: arguments, environment (``COGCAT_DATABASE``, ``COGCAT_REPOSITORY``, ``COGCAT_STAC``,
``COGCAT_COLLECTION``, ``COGCAT_CONFIG``), ``cogcat.toml``, defaults in the working directory.

Secrets are refused here, since what is set here is stored: in SQL, in the repository's config.
Object-store clients read their keys from their own environment variables, and what a STAC API
wants to see comes from ``COGCAT_STAC_AUTHORIZATION`` at each request (``stac_headers``). Only the
database's URL may hold a password, which no ``repr`` and no message shows.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from catalog.errors import ConfigError, UsageError
from catalog.hrefs import check_root, shown_href
from catalog.printable import printable
from catalog.redaction import has_secrets

DEFAULT_DATABASE = "sqlite:///cogcat.db"
DEFAULT_REPOSITORY = "./cogcat-repo"
DEFAULT_CONFIG = "cogcat.toml"
EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
DEFAULT_COLLECTION = "sentinel-2-c1-l2a"
PLANETARY_COMPUTER = "planetary-computer"
CONFIG_BYTES = 1_000_000
"""Of a configuration file: more is none."""
OVERDUE = timedelta(hours=26)
"""Without a crawl that ended well a watch is overdue: a day's cron, and two hours to run."""
_HOST = re.compile(r"(https?://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
AZURE_URL = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/([^/]+)/(.*)")


KEYS_OF_FILES = (
    "give the address alone: object stores take keys from the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), an Azure container its tokens from `sign`"
)
KEYS_OF_STAC = "give the address alone, and what the API wants in COGCAT_STAC_AUTHORIZATION"


def _check_text(value: str | None, what: str, keys: str | None) -> None:
    """Visible characters of a bounded number and, where ``keys`` says how to give them, none that
    are secret."""
    if value is None:
        return
    if len(value) > 4096:
        raise ConfigError(f"{what} has {len(value)} characters, and 4096 are too many")
    if printable(value, None) != value:
        raise ConfigError(
            f"{what} holds characters that are not printable: {printable(value, 100)}"
        )
    if keys is not None and has_secrets(value):
        raise ConfigError(f"{what} holds a user name, a password or a key: {keys}")


def _shown(value: Any) -> str:
    return repr(value)[:60]


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
        named = f"source {self.name or self.match!r}"
        for name in ("name", "match", "url"):
            if not getattr(self, name):
                raise ConfigError(f"{named}: {name!r} is missing")
        for name in ("name", "match", "url", "region", "endpoint"):
            _check_text(getattr(self, name), f"{named}: {name!r}", KEYS_OF_FILES)
        if len(self.name) > 255 or re.search(r"[/?#@%\s]", self.name):
            raise ConfigError(
                f"{named}: a name has no blank, '/', '?', '#', '@' or '%', and 255 characters"
            )
        for name in ("match", "url"):
            value = getattr(self, name)
            if not value.endswith("/"):
                object.__setattr__(self, name, value + "/")
            if "?" in value or "#" in value:
                raise ConfigError(
                    f"{named}: {name!r} is an address that names of files follow: no '?' or '#'"
                )
            try:
                urlsplit(value)
            except ValueError as error:
                raise ConfigError(f"{named}: {name!r} is no address: {error}") from None
        if self.endpoint is not None and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise ConfigError(f"{named}: 'endpoint' must start with https:// or http://")
        if urlsplit(self.url).scheme not in ("s3", "http", "https", "file"):
            raise ConfigError(
                f"source {self.name!r}: url {self.url!r} must start with s3://, https://, http:// "
                "or file://"
            )
        try:
            check_root(self.url)
        except ValueError as error:
            raise ConfigError(
                f"source {self.name!r}: url {shown_href(self.url)} {error}"
            ) from error
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
        """Prefix of the repository's virtual chunk container: ``url``, or Azure's spelling;
        decoded, as icechunk decodes the address of a chunk before it looks for its prefix."""
        if self.scheme != "az":
            return unquote(self.url)
        _, container, prefix = self.azure
        return unquote(f"az://{container}/{prefix}")

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

    database: str = field(default=DEFAULT_DATABASE, repr=False)
    """SQLAlchemy URL; it may hold a password, so ``repr`` leaves it out. A pickle has it, unless
    ``COGCAT_DATABASE`` named it: then that is asked for again where it is unpickled."""
    repository: str = DEFAULT_REPOSITORY
    """Path or ``s3://bucket/prefix``."""
    sources: tuple[Source, ...] = BUILT_IN_SOURCES
    """The user's own first: the first that matches wins. One of the user's replaces the built-in
    of the same name or url."""
    repository_options: Mapping[str, str] = field(default_factory=dict)
    """``region``, ``endpoint`` and ``anonymous`` of an S3 repository, from ``[repository]``."""
    stac: str = EARTH_SEARCH
    """STAC API that crawls and new watches ask where they name none."""
    collection: str = DEFAULT_COLLECTION
    """Collection that crawls of an API and new watches ask for where they name none."""

    stac_hosts: tuple[str, ...] = ()
    """``host``, ``host:port`` or ``http://host``: where a STAC API's answers may lead, beside the
    API's own host."""

    def __post_init__(self) -> None:
        location = self.repository
        _check_text(location, "the repository", KEYS_OF_FILES if ":/" in location else None)
        _check_text(self.repository_options.get("endpoint"), "the repository's 'endpoint'",
                    KEYS_OF_FILES)  # fmt: skip
        _check_text(self.database, "the database's URL", None)
        _check_text(self.collection, "the collection", None)
        check_stac(self.stac)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {name.name: getattr(self, name.name) for name in fields(self)}
        if self.database == os.environ.get("COGCAT_DATABASE") and has_secrets(self.database):
            values["database"] = None
        return _unpickled, (values,)


def _unpickled(values: dict[str, Any]) -> Settings:
    """A password that was the environment's is taken from the environment here, too."""
    if values["database"] is None and not os.environ.get("COGCAT_DATABASE"):
        raise ConfigError(
            "the database was named by COGCAT_DATABASE where this catalog was pickled, and its "
            "password is in no pickle: set COGCAT_DATABASE here, too"
        )
    return Settings(**values | {"database": values["database"] or os.environ["COGCAT_DATABASE"]})


def load_settings(
    *,
    database: str | None = None,
    repository: str | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Settings:
    """Settings from arguments, environment, file and defaults, in that order.

    Raises:
        ConfigError: the file does not exist though it was named, is not TOML, or has a key or
            value that is not known; or a value holds a secret, or characters that nobody sees.
    """
    named = config or os.environ.get("COGCAT_CONFIG")
    path = Path(named or DEFAULT_CONFIG)
    document: dict[str, Any] = {}
    if named or path.exists():
        document = _read(path)
    known = {"database", "repository", "sources", "stac", "collection", "stac_hosts"}
    if unknown := set(document) - known:
        raise ConfigError(f"{path}: unknown key {sorted(unknown)[0]!r}")
    repository_table = document.get("repository", {})
    if not isinstance(repository_table, dict):
        repository_table = {"location": repository_table}
    said = {
        "database": (database, document.get("database"), DEFAULT_DATABASE),
        "repository": (repository, repository_table.get("location"), DEFAULT_REPOSITORY),
        "stac": (None, document.get("stac"), EARTH_SEARCH),
        "collection": (None, document.get("collection"), DEFAULT_COLLECTION),
    }
    chosen: dict[str, Any] = {}
    for key, (argument, in_file, default) in said.items():
        if in_file is not None and not isinstance(in_file, str):
            raise ConfigError(f"{path}: {key} is {_shown(in_file)}, not text")
        variable = f"COGCAT_{key.upper()}"
        chosen[key] = argument or os.environ.get(variable) or in_file or default
        where = variable if os.environ.get(variable) else f"{path}: {key}"
        _check_text(None if argument else chosen[key], where, None)
        if not argument and key == "stac" and has_secrets(chosen[key]):
            raise ConfigError(f"{where} holds a user name, a password or a key: {KEYS_OF_STAC}")
    return Settings(
        **chosen,
        sources=_with_built_in(_sources(document.get("sources", []), path)),
        repository_options=_repository_options(repository_table, path),
        stac_hosts=_hosts(document.get("stac_hosts", []), path),
    )


def check_stac(url: str) -> None:
    """No secret is in the address of a STAC API: it is stored with crawls, watches, collections.

    Raises:
        UsageError: one is; the message does not show it.
    """
    if has_secrets(url):
        raise UsageError(f"the STAC address holds a user name, a password or a key: {KEYS_OF_STAC}")


def stac_headers(url: str, settings: Settings | None = None) -> dict[str, str]:
    """The header that the API at ``url`` wants to see, from the environment; most want none.

    ``COGCAT_STAC_AUTHORIZATION_{HOST}`` (capitals, ``_`` for what is no letter or digit) is that of
    one host. ``COGCAT_STAC_AUTHORIZATION`` is that of ``settings.stac``'s, or of any where
    no settings are given. The value is that of ``Authorization``, such as ``Bearer …``, or a
    header of another name with its own, such as ``X-Api-Key: …``. It goes over https, or to this
    machine; where an answer leads to another host, it is not for that one.

    Raises:
        ConfigError: the value is no header, or would be sent in the clear.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return {}  # no address: it is refused where it is opened
    host = parts.hostname or ""
    variable = "COGCAT_STAC_AUTHORIZATION"
    own = f"{variable}_{re.sub('[^A-Z0-9]', '_', host.upper())}"
    if os.environ.get(own):
        variable = own
    elif settings is not None and (urlsplit(settings.stac).hostname or "") != host:
        return {}
    value = os.environ.get(variable, "").strip()
    if not value:
        return {}
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"{variable} is no header's value: it holds a line break, or no ASCII")
    if parts.scheme != "https" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(
            f"{variable} is not sent in the clear: give the https:// address of {host}"
        )
    name, colon, rest = value.partition(": ")
    if colon and re.fullmatch(r"[A-Za-z0-9-]+", name):
        return {name: rest.strip()}
    return {"Authorization": value}


def stac_access(url: str, settings: Settings) -> dict[str, Any]:
    """``hosts`` and ``headers`` of ``stac_search.search_items``.

    Raises:
        ConfigError: as ``stac_headers``.
    """
    return {"hosts": settings.stac_hosts, "headers": stac_headers(url, settings)}


def _repository_options(table: Mapping[str, Any], path: Path) -> dict[str, str]:
    for key, value in table.items():
        if key not in ("location", "region", "endpoint", "anonymous"):
            raise ConfigError(f"{path}: unknown key {key!r} in [repository]")
        where = f"{path}: {key!r} in [repository]"
        if key == "anonymous":
            if not isinstance(value, bool) and str(value).lower() not in ("true", "false"):
                raise ConfigError(f"{where} is {_shown(value)}, not true or false")
        elif not isinstance(value, str):
            raise ConfigError(f"{where} is {_shown(value)}, not text")
        else:
            _check_text(value, where, KEYS_OF_FILES if key == "endpoint" else None)
    options = _s3_options_of_environment() | dict(table)
    options.pop("location", None)
    return {key: str(value) for key, value in options.items()}


def _hosts(listed: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise ConfigError(f'{path}: stac_hosts is a list, such as ["stac.example.org"]')
    for host in listed:
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ConfigError(
                f"{path}: {_shown(host)} in stac_hosts is no host: write stac.example.org, "
                "stac.example.org:8443 or http://stac.example.org"
            )
    return tuple(listed)


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
        # A device or a pipe has no end.
        with path.open("rb") as stream:
            text = stream.read(CONFIG_BYTES + 1)
        if len(text) > CONFIG_BYTES:
            raise ConfigError(f"{path}: more than {CONFIG_BYTES} bytes are no configuration")
        return tomllib.loads(text.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
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
                raise ConfigError(
                    f"{path}: {key!r} in [[sources]] {number} is {_shown(value)}, not {kind}"
                )
        # A name stands in every reference, so it must not depend on the order of the tables.
        plain = re.sub(r"[^A-Za-z0-9.]+", "-", str(table["match"]).partition("://")[2]).strip("-")
        try:
            sources.append(Source(**{"name": plain[:255] or f"source-{number}", **table}))
        except ConfigError as error:
            raise ConfigError(f"{path}: [[sources]] {number}: {error}") from error
    for number, source in enumerate(sources):
        for earlier, other in enumerate(sources[:number], 1):
            _check_beside(f"{path}: [[sources]] {number + 1}", source, earlier, other)
    return sources


def _check_beside(where: str, source: Source, earlier: int, other: Source) -> None:
    """Two sources differ in what a reference and a container are known by, and both are used."""
    if source.name == other.name:
        raise ConfigError(f"{where}: [[sources]] {earlier} has the name {source.name!r}, too")
    if source.container_url == other.container_url:
        raise ConfigError(
            f"{where}: [[sources]] {earlier} has the url {source.url!r}, too, and icechunk keeps "
            "one container for each: where one server has two archives, give each url its own path"
        )
    if source.match.startswith(other.match):
        raise ConfigError(
            f"{where} is never used: what starts with its match {source.match!r} goes to "
            f"[[sources]] {earlier}, {other.match!r}, first: put it before that one"
        )


def _with_built_in(sources: Sequence[Source]) -> tuple[Source, ...]:
    """A repository has one container per name and per url, so one source has each."""
    taken = {value for source in sources for value in (source.name, source.url)}
    return (
        *sources,
        *(s for s in BUILT_IN_SOURCES if s.name not in taken and s.url not in taken),
    )
