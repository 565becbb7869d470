"""No secret that goes in comes out: planted wherever one can be, then looked for wherever it may
have been kept or said."""

from __future__ import annotations

import contextlib
import copy
import http.server
import json
import logging
import pickle
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numcodecs
import pytest
from click.testing import Result
from sqlalchemy import inspect, make_url
from stacks import Stack, run_cli, s3_client

import catalog
from catalog import logs
from catalog.database import open_engine, shown
from catalog.errors import CatalogError, ConfigError, UsageError
from catalog.settings import Settings, load_settings

pytest_plugins = ["stacks"]

WORD = "hUnter2"
FRAME = b"\x28\xb5\x2f\xfd"
"""How a frame of Zstandard begins: icechunk's documents are such, behind a header."""


@pytest.fixture(autouse=True)
def the_logger_as_it_was() -> Iterator[None]:
    log = logging.getLogger("catalog")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@contextlib.contextmanager
def tells_secrets() -> Iterator[str]:
    """A server that redirects to an address with secrets, or has them in its answers."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "redirect" in self.path:
                self.send_response(302)
                self.send_header(
                    "Location", f"http://u:{WORD}@127.0.0.1:9/x?token={WORD}&sig={WORD}"
                )
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = json.dumps({"message": f"token={WORD} http://{WORD}@h/ Authorization: {WORD}"})
            self.send_response(403)
            self.send_header("X-Api-Key", WORD)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def without_word(*said: object) -> None:
    for text in said:
        data = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
        at = data.lower().find(WORD.lower().encode())
        assert at < 0, data[max(0, at - 200) : at + 50]


def objects(stack: Stack) -> Iterator[bytes]:
    """Every object of the repository, and what is packed in it."""
    if "://" in stack.location:
        bucket, _, prefix = stack.location.removeprefix("s3://").partition("/")
        client = s3_client(stack.moto or "")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [
            client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            for page in pages
            for entry in page.get("Contents", [])
        ]
    else:
        found = [path.read_bytes() for path in Path(stack.location).rglob("*") if path.is_file()]
    packed = [data[at:] for data in found if (at := data.find(FRAME)) >= 0]
    assert len(packed) >= 2  # a snapshot and its manifests, at least
    yield from found
    for data in packed:
        yield bytes(numcodecs.Zstd().decode(data))


def rows(stack: Stack) -> Iterator[object]:
    """Every value of every table, and SQLite's file as it lies there."""
    with stack.engine() as engine:
        tables = inspect(engine).get_table_names()
    assert len(tables) > 8
    for table in tables:
        yield from stack.rows(f"SELECT * FROM {table}")
    for path in stack.directory.glob("cogcat.db*"):
        yield path.read_bytes()


def looked_over(stack: Stack, tmp_path: Path, **options: str) -> None:
    """All that is kept of a catalog, and all that its commands say."""
    without_word(*rows(stack), *objects(stack))
    config = ("--config", str(stack.config))
    for style in logs.FORMATS:
        for words in (
            ["status"], ["status", "--json"], ["watch", "list"], ["watch", "list", "--json"],
            ["search", "--status", "any"], ["search", "--json", "--status", "any"],
            ["search", "--format", "geojson"], ["changes", "--json"], ["init"], ["repair"],
        ):  # fmt: skip
            done = run_cli("--log-format", style, "--log-level", "debug", *words, *config)
            assert done.exit_code == 0, done.stderr
            without_word(done.stdout, done.stderr)
    with catalog.connect(config=stack.config, **options) as cat:
        without_word(repr(cat), str(cat), cat.status(), list(cat.search().items_as_dicts()))
        for scene in cat.search():
            without_word(repr(scene), repr(scene.assets))
        cat.search().to_geoparquet(tmp_path / "a.parquet")
        import pyarrow.parquet

        without_word(pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist())
        without_word((tmp_path / "a.parquet").read_bytes())
        cube = cat.cube("10TFR", resolution=20)
        if not options and "COGCAT_DATABASE" not in str(options):
            without_word(repr(cube.attrs), pickle.dumps(cube.scl))


def planted(stack: Stack, evil: str) -> None:
    """Honest items stay; others have a secret each, in another place."""
    honest = stack.items[:2]
    base = stack.items[2:]
    made: list[dict[str, Any]] = []
    for number, change in enumerate(
        (
            lambda href: href.replace("://", f"://u:{WORD}@"),
            lambda href: href.replace("://", f"://{WORD}@"),
            lambda href: f"{href}?sig={WORD}",
            lambda href: f"{href}?X-Amz-Security-Token={WORD}&a=1",
            lambda href: f"{href}?api%5Fkey={WORD}",
            lambda href: f"{href}#token={WORD}",
            lambda href: f"{evil}/redirect/a.tif",
            lambda href: f"{evil}/files/a.tif",
        )
    ):
        item = copy.deepcopy(base[number % len(base)])
        item["id"] = f"{item['id']}_{number}"
        for asset in item["assets"].values():
            asset["href"] = change(asset["href"])
            asset["title"] = f"token={WORD}"
        item["properties"]["s2:auth"] = f"Bearer {WORD}"
        item["links"].append({"rel": "via", "href": f"https://u:{WORD}@h/?sig={WORD}"})
        made.append(item)
    stack.items[:] = honest + made


def test_a_world_full_of_secrets(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COGCAT_STAC_AUTHORIZATION", f"Bearer {WORD}")
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", WORD)
    if stack.database.startswith("postgresql"):
        stack.database = (
            make_url(stack.database).set(password=WORD).render_as_string(hide_password=False)
        )
    with tells_secrets() as evil:
        stack.sources.append({"name": "evil", "match": f"{evil}/", "url": f"{evil}/"})
        stack.write_config(stac=stack.server.stac_url)
        assert stack.cli("init").exit_code == 0
        planted(stack, evil)
        said: list[Result] = []
        metrics = tmp_path / "cogcat.prom"
        for style in logs.FORMATS:
            log = ("--log-format", style, "--log-level", "debug")
            crawl = ("crawl", "--bands", "scl", "--metrics", metrics)
            said += [
                stack.cli(*log, *crawl, "--datetime", "2023"),
                stack.cli(*log, *crawl, "--datetime", "2023", "--json", "--retry"),
                stack.cli(*log, "watch", "add", "w", "--tile", "10TFR"),
                stack.cli(*log, *crawl, "--watch", "w"),
                stack.cli(*log, *crawl, "--stac", f"{evil}/redirect", "--tile", "10TFR"),
                stack.cli(*log, *crawl, "--stac", f"{evil}/api", "--tile", "10TFR"),
                stack.cli(*log, "-v", *crawl, "--stac", f"{evil}/api", "--tile", "10TFR"),
            ]
        for done in said:
            without_word(done.stdout, done.stderr)
        assert [done.exit_code for done in said[:3]] == [1, 1, 0]
        assert stack.rows("SELECT count(*) FROM scenes WHERE status = 'indexed'") >= [(2,)]
        without_word(metrics.read_text())
        looked_over(stack, tmp_path)


def test_what_an_api_wants_goes_to_its_own_host(
    stac_seen: tuple[str, list[tuple[str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a redirect nor a next page takes it elsewhere, though settings allow the place."""
    url, seen = stac_seen
    port = url.rpartition(":")[2]
    Path("cogcat.toml").write_text(f'stac = "{url}"\nstac_hosts = ["http://localhost:{port}"]\n')
    monkeypatch.setenv("COGCAT_STAC_AUTHORIZATION", f"X-Api-Key: {WORD}")
    assert run_cli("init").exit_code == 0
    done = run_cli("crawl", "--tile", "10TFR", "--log-level", "debug")
    assert done.exit_code == 2
    without_word(done.stdout, done.stderr)
    assert ("127.0.0.1", WORD) in seen
    assert ("localhost", None) in seen
    assert set(seen) == {("127.0.0.1", WORD), ("localhost", None)}


@pytest.fixture
def stac_seen() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """An API that sends on to another name of its host, and which names asked with which key."""
    seen: list[tuple[str, str | None]] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, port = (self.headers["Host"] or "").partition(":")
            seen.append((name, self.headers["X-Api-Key"]))
            self.send_response(302 if name == "127.0.0.1" else 403)
            self.send_header("Location", f"http://localhost:{port}/v1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


SECRETS = (
    "https://u:{}@h.org/v1", "https://{}@h.org/v1", "https://a:{}@{}@h.org/", "http://h.org/v1?key={}",
    "https://h.org/v1?api_key={}", "https://h.org/v1?API-Key={}", "https://h.org/?token={}",
    "https://h.org/?a=1&subscription-key={}", "https://h.org/?X-Amz-Security-Token={}",
    "https://h.org/#access_token={}", "https://h.org/?x=https%3A%2F%2Fu%3A{}%40h",
    "https:/u:{}@h/v1", "https://h.org/?%74oken={}",
)  # fmt: skip


@pytest.mark.parametrize("form", SECRETS)
def test_addresses_with_secrets_are_refused(local_stack: Stack, form: str, tmp_path: Path) -> None:
    stack, url = local_stack, form.replace("{}", WORD)
    before = stack.everything(), stack.rows("SELECT count(*) FROM crawls")
    for words in (
        ["crawl", "--stac", url, "--tile", "10TFR"],
        ["crawl", "--stac", url, "--tile", "10TFR", "--dry-run"],
        ["watch", "add", "w", "--stac", url, "--tile", "10TFR"],
        ["rebuild", "--stac", url],
        ["search", "--repository", url.replace("https:", "s3:")],
        ["crawl", "--dask", url, "--stac", stack.server.stac_url, "--tile", "10TFR"],
    ):
        done = stack.cli(*words)
        assert done.exit_code == 2, words
        without_word(done.stdout, done.stderr)
        assert len(done.stderr.splitlines()) == 1
    assert (stack.everything(), stack.rows("SELECT count(*) FROM crawls")) == before
    assert stack.rows("SELECT * FROM watches") == []
    with pytest.raises(UsageError) as caught:
        load_settings(config=stack.config, repository=url.replace("https:", "s3:"))
    without_word(caught.value, repr(caught.value))


@pytest.mark.parametrize(
    "form",
    [
        "postgres://u:p@{}@127.0.0.1:1/db", "postgresql:/u:{}@h/db", "postgresql:u:{}@h/db",
        "postgresql//u:{}@h/db", "foo://u:{}@h/db", "sqlite:///x.db?password={}",
        "postgresql://u:{}@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db?user=u&password={}",
        "postgresql://u:{}@127.0.0.1:port/db", "postgresql://u:{} x@127.0.0.1:1/db",
        "postgresql://u:a/{}@127.0.0.1:1/db", "postgresql://u:a#{}@127.0.0.1:1/db",
        "u:{}@h", "postgresql+psycopg2://u:{}@h/db", "mysql://u:{}@h/db",
        "postgresql://u:{}@127.0.0.1:1/db?sslpassword={}&bogus=1",
    ],
)  # fmt: skip
def test_no_form_of_a_database_url_is_shown(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = form.replace("{}", WORD)
    without_word(shown(url))
    with pytest.raises(CatalogError) as caught:
        open_engine(url)
    without_word(caught.value, repr(caught.value))
    monkeypatch.setenv("COGCAT_DATABASE", url)
    for style in logs.FORMATS:
        for words in (["status"], ["init", "--repository", "there"]):
            done = run_cli("--log-format", style, "--log-level", "debug", *words)
            assert done.exit_code == 2
            without_word(re.sub(r"create_engine\(.*", "", done.stdout + done.stderr))


def test_what_is_pickled_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://u:{WORD}@h/db"
    monkeypatch.setenv("COGCAT_DATABASE", url)
    settings = load_settings()
    without_word(repr(settings), pickle.dumps(settings), *map(repr, settings.sources))
    assert pickle.loads(pickle.dumps(settings)) == settings
    # One that was given by hand is the caller's own: there it has to be, or no worker could.
    assert WORD.encode() in pickle.dumps(Settings(database=url.replace("/db", "/other")))


def test_a_source_with_secrets_reaches_no_repository(local_stack: Stack) -> None:
    stack = local_stack
    stack.sources.append(
        {"name": "x", "match": "https://x.org/", "url": f"https://u:{WORD}@x.org/"}
    )
    stack.write_config()
    done = stack.cli("init")
    assert done.exit_code == 2
    without_word(done.stderr, *objects(stack), *rows(stack))
    with pytest.raises(ConfigError):
        stack.settings  # noqa: B018
