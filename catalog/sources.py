"""Which store a file is read from: href → (source, key) → obstore client and location.

The same ``Source`` serves the header read (obstore, here) and the pixel reads
(an Icechunk virtual chunk container, in ``repository.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import obstore
import requests
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import AzureStore, HTTPStore, LocalStore, ObjectStore, S3Store

from catalog.errors import ConfigError, HeaderError, UnreadableFileError
from catalog.hrefs import address_of, key_below, shown_href
from catalog.json_values import brief
from catalog.patience import asked_pause
from catalog.redirects import guard, refusal
from catalog.settings import Source
from catalog.signing import require_signing, token

REQUEST_TIMEOUT = timedelta(seconds=30)
"""For one whole request, slow body included."""
CONNECT_TIMEOUT = timedelta(seconds=10)
_SECONDS = CONNECT_TIMEOUT.total_seconds(), REQUEST_TIMEOUT.total_seconds()
RETRY: dict[str, Any] = {"max_retries": 0, "retry_timeout": timedelta(0)}
"""None: obstore gives up at 429 and shows no ``Retry-After``; ``header.py`` tries again itself."""


def resolve(href: str, sources: Sequence[Source]) -> tuple[Source, str]:
    """The first source whose ``match`` starts ``href``, and the key below its ``url``.

    The key is an object-store key: decoded where the href is a web or file address. It is one
    that obstore and icechunk take for the same file, see ``hrefs.py``.

    Raises:
        HeaderError: no source matches, the message says what to add.
        UnreadableFileError: the href is none that a reference can carry.
    """
    for source in sources:
        try:
            key = key_below(href, source.match)
        except ValueError as error:
            raise UnreadableFileError(str(error), href=shown_href(href)) from error
        if key is not None:
            return source, key
    shown = shown_href(href) or ""
    scheme, _, rest = shown.partition("://")
    raise HeaderError(
        "no source matches it: add a [[sources]] table with match = "
        f"{brief(f'{scheme}://{rest.partition("/")[0]}/', 120)} and a url to cogcat.toml, then run "
        "`cogcat init`",
        href=shown,
    )


def location(source: Source, key: str) -> str:
    """What a reference stores: ``vcc://{name}/{key}``, reserved characters percent-encoded."""
    return f"vcc://{source.name}/{quote(key, safe='/:@!$&()*+,;=~-._ ')}"


def href_of(location: str, sources: Sequence[Source]) -> str:
    """The inverse of ``resolve`` and ``location``: the href of the file a reference names.

    Raises:
        ConfigError: no source has the name of its container.
    """
    name, _, quoted = location.removeprefix("vcc://").partition("/")
    for source in sources:
        if source.name == name:
            return address_of(unquote(quoted), source.match)
    raise ConfigError(
        f"references name the container {name!r}, and no source of the settings has that name: "
        f"add a [[sources]] table with name = {name!r} to cogcat.toml"
    )


def hosts_of(sources: Sequence[Source]) -> tuple[str, ...]:
    """The hosts that settings name: a file server may redirect to them."""
    addresses = [a for s in sources for a in (s.url, s.endpoint) if a and a.startswith("http")]
    return tuple(sorted({host for a in addresses if (host := urlsplit(a).hostname)}))


def open_store(source: Source, hosts: Sequence[str] = ()) -> ObjectStore:
    """An obstore client for ``source.url``, with timeouts and without retries.

    Args:
        hosts: where redirects may lead, besides the source's own. (What is on AWS or Azure
            itself redirects nowhere else; with keys of their own, clients ask for these
            elsewhere too.)

    Raises:
        ConfigError: the url does not name a bucket, host or directory.
    """
    parts = urlsplit(source.url)
    client: Any = {"timeout": REQUEST_TIMEOUT, "connect_timeout": CONNECT_TIMEOUT}
    if source.scheme == "file":
        root = Path(unquote(parts.path))
        if not root.is_dir():
            raise ConfigError(f"source {source.name!r}: no directory {root}")
        return LocalStore(prefix=root)
    if not parts.netloc:
        raise ConfigError(f"source {source.name!r}: url {source.url!r} names no bucket or host")
    if source.scheme == "s3":
        options: dict[str, Any] = {}
        if source.region:
            options["region"] = source.region
        if source.endpoint:
            options["endpoint"] = source.endpoint
            client["allow_http"] = source.endpoint.startswith("http://")
            if source.anonymous and not source.requester_pays:
                client |= guard(source.endpoint, hosts)
        if source.requester_pays:
            options["request_payer"] = True
        return S3Store(
            parts.netloc,
            prefix=unquote(parts.path).strip("/") or None,
            skip_signature=source.anonymous and not source.requester_pays,
            client_options=client,
            retry_config=RETRY,  # type: ignore[arg-type]
            **options,
        )
    if source.scheme == "az":
        return _open_azure(source, client)
    client["allow_http"] = source.scheme == "http"
    client |= guard(source.url, hosts)
    return HTTPStore.from_url(source.url.rstrip("/"), client_options=client, retry_config=RETRY)  # type: ignore[arg-type]


def _open_azure(source: Source, client: dict[str, Any]) -> ObjectStore:
    require_signing()
    account, container, prefix = source.azure
    options: dict[str, Any] = {}
    if source.endpoint:
        options["endpoint"] = source.endpoint
        client["allow_http"] = source.endpoint.startswith("http://")
    return AzureStore(
        container,
        prefix=unquote(prefix).strip("/") or None,
        account_name=account,
        credential_provider=_credential_provider(account, container),
        client_options=client,  # type: ignore[arg-type]
        retry_config=RETRY,  # type: ignore[arg-type]
        **options,
    )


def _credential_provider(account: str, container: str) -> Callable[[], Any]:
    def provide() -> Any:
        given = token(account, container)
        return {"sas_token": given.query, "expires_at": given.use_until}

    return provide


def ask_pause(store: ObjectStore, key: str) -> float | None:
    """Seconds that a server which just refused ``key`` wants to be left alone, or None.

    obstore shows no headers of a refusal, so one byte is asked for by other means.
    """
    try:
        url = _address(store, key)
        if url is None:
            return None
        with requests.get(
            url,
            headers={"Range": "bytes=0-0"},
            timeout=_SECONDS,
            stream=True,
            allow_redirects=False,
        ) as answer:
            return None if answer.ok else asked_pause(answer.headers.get("Retry-After"))
    except (requests.RequestException, ObstoreError, OSError, ValueError):
        return None  # the next try will tell


def why_redirected(store: ObjectStore, key: str) -> str:
    """What to say of a server that redirects ``key`` to where ``open_store`` lets no request go."""
    try:
        url = _address(store, key)
    except (ObstoreError, OSError, ValueError):
        url = None
    if url is None:
        return "its server sends on to another place, which is not followed"
    options: Any = getattr(store, "client_options", None) or {}
    return refusal(url, str(options.get("proxy_excludes", "")).split(","), _SECONDS)


def _address(store: ObjectStore, key: str) -> str | None:
    """The URL at which ``store`` asks for ``key``, signed where it signs."""
    if isinstance(store, HTTPStore):
        return f"{store.url.rstrip('/')}/{quote(key)}"
    if isinstance(store, S3Store):
        endpoint = store.config.get("endpoint")
        if endpoint and store.config.get("skip_signature") == "true":
            path = "/".join(part for part in (store.config["bucket"], store.prefix, key) if part)
            return f"{endpoint.rstrip('/')}/{quote(path)}"
        return obstore.sign(store, "GET", key, timedelta(minutes=5))
    return None
