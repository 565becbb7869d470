"""The two stacks on which every behaviour is shown, and the look-alike archive they crawl.

``sqlite+local``: SQLite, a repository on disk, files over HTTP.
``postgresql+s3``: PostgreSQL, a repository on S3 (moto), files over HTTP.
``s3_stack``: the same, the files in a bucket named as the real one.

Tests take the names from here and say ``pytest_plugins = ["stacks"]`` for the fixtures.
PYTEST_DONT_REWRITE: it is imported before it is a plugin, and asserts nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import rasterio
import rasterio.session
import waitress
from click.testing import CliRunner, Result
from conftest import postgres_database
from filelock import FileLock
from moto.server import create_backend_app
from numpy.typing import NDArray
from sqlalchemy import Engine, text

import catalog
from catalog.cli import main
from catalog.database import open_engine, read_transaction
from catalog.demo.archive import Archive, build_archive, load_archive
from catalog.demo.server import ArchiveServer
from catalog.report import Report
from catalog.repository import Repository
from catalog.settings import Settings, load_settings
from catalog.setup import introduce, open_crawl, set_up
from catalog.stac_query import StacQuery
from catalog.stac_search import search_items
from catalog.sync import scope

TILES = ("10TFR", "10TGR")
DATES = ("2023-03-08", "2023-05-02", "2023-12-23")
C1 = "sentinel-2-c1-l2a"
L2A = "sentinel-2-l2a"
BANDS = 18
"""Of a scene of Collection 1."""
SCENES = len(TILES) * len(DATES)
REGION = "us-west-2"
S3_REQUESTS: deque[str] = deque(maxlen=10_000)
"""The last that the S3 server was asked: method and path."""
STACKS = ("sqlite+local", "postgresql+s3")

HOW_MUCH = ("COGCAT_KILLS", "COGCAT_EXAMPLES", "COGCAT_GUIDE")
"""What may be said of how long the tests go on, and what they write."""
# Whatever keys and settings the machine has, no test is to use them.
for _name in [name for name in os.environ if name.startswith(("AWS_", "COGCAT_"))]:
    if _name not in HOW_MUCH:
        del os.environ[_name]
os.environ |= {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
}


# Where there are keys, rasterio makes a session of boto3's for every file and array, in 10 ms each.
# Nothing here is read from S3 by rasterio.
rasterio.session.boto3 = None


@dataclass(slots=True)
class Stack:
    """A catalog, its repository and the archive server it crawls."""

    name: str
    directory: Path
    database: str
    location: str
    """Of the repository."""
    server: ArchiveServer
    sources: list[dict[str, Any]]
    moto: str | None
    """Address of the S3 server, where the repository is on one."""

    @property
    def config(self) -> Path:
        return self.directory / "cogcat.toml"

    @property
    def settings(self) -> Settings:
        return load_settings(config=self.config)

    @property
    def items(self) -> list[dict[str, Any]]:
        """Of Collection 1, as the server reads them at every request: edit at will."""
        return self.server.archive.items["earth-search-c1"]

    def write_config(self, **more: Any) -> None:
        lines = [f"database = {json.dumps(self.database)}"]
        for key, value in more.items():
            lines.append(f"{key} = {json.dumps(value)}")
        lines += ["[repository]", f"location = {json.dumps(self.location)}"]
        if self.moto:
            lines += [f"endpoint = {json.dumps(self.moto)}", f"region = {json.dumps(REGION)}"]
        for source in self.sources:
            lines.append("[[sources]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in source.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def init(self, *, migrated: bool = False) -> None:
        """``cogcat init``; of a database that is as it leaves it, only the rest."""
        settings = self.settings
        if not migrated:
            set_up(settings)
            return
        repository = Repository.create(
            settings.repository, settings.sources, settings.repository_options
        )
        with self.engine() as engine:
            introduce(engine, repository, settings.sources)

    def crawl(
        self,
        *,
        collection: str = C1,
        stac: str | None = None,
        bands: list[str] | None = None,
        dry_run: bool = False,
        retry: bool = False,
        reread: bool = False,
        sync: bool = False,
        outstanding: bool = False,
        page_size: int = 100,
        items: Iterable[Any] | None = None,
        **query: Any,
    ) -> Report:
        """A crawl in this process; its requests are the only ones the server remembers."""
        url = stac or self.server.stac_url
        self.server.requests.reset()
        with open_crawl(
            self.settings, bands=bands, dry_run=dry_run, retry=retry, reread=reread
        ) as crawl:
            asked = StacQuery.parse(collection=collection, **query)
            documents = items or search_items(url, asked, retries=0, page_size=page_size)
            return crawl.run(
                documents,
                query=asked.as_dict(),
                collection=collection,
                stac=url,
                outstanding=outstanding,
                scope=scope(url, asked) if sync else None,
            )

    def connect(self) -> catalog.Catalog:
        return catalog.connect(config=self.config)

    @contextlib.contextmanager
    def engine(self) -> Iterator[Engine]:
        engine = open_engine(self.database)
        try:
            yield engine
        finally:
            engine.dispose()

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine() as engine, read_transaction(engine) as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of the tables that say what is indexed where."""
        tables = ("scenes", "assets", "snapshots", "branches", "scene_revisions", "item_failures")
        return {name: sorted(self.rows(f"SELECT * FROM {name}"), key=repr) for name in tables}

    def repository(self) -> Repository:
        settings = self.settings
        return Repository.open(settings.repository, settings.sources, settings.repository_options)

    def file_requests(self) -> list[Any]:
        return self.server.requests.below("/files/")

    def href(self, item: Mapping[str, Any], key: str) -> str:
        """As the server serves it."""
        return str(item["assets"][key]["href"]).replace(
            self.server.archive.base_url, self.server.url
        )

    def pixels(self, item: Mapping[str, Any], key: str, level: int = 0) -> NDArray[Any]:
        """What rasterio reads, (y, x) or (band, y, x); level 1 is the first overview."""
        return read_pixels(self.path(item, key), level)

    def path(self, item: Mapping[str, Any], key: str) -> Path:
        """The file of an asset."""
        href = item["assets"][key]["href"]
        name = href.split("/files/")[-1] if "/files/" in href else bucket_key(href)
        return self.server.archive.files / name

    def cli(self, *arguments: object, stdin: str | None = None) -> Result:
        """The command in this process, with this stack's configuration where it takes one."""
        words = [str(argument) for argument in arguments]
        command = next((word for word in words if not word.startswith("-")), "")
        if command in main.commands and command != "demo" and "--config" not in words:
            words += ["--config", str(self.config)]
        return run_cli(*words, stdin=stdin)

    def process(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        words = [*map(str, arguments), "--config", str(self.config)]
        return subprocess.Popen(
            [sys.executable, "-c", "from catalog.cli import main; main()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=child_environment(),
            **options,
        )


def child_environment() -> dict[str, str]:
    """For processes of ours: this one's, but always with compiled modules, which halve a start."""
    environment = dict(os.environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "cogcat-pyc")
    return environment


def run_cli(*words: str, stdin: str | None = None) -> Result:
    """``cogcat`` in this process; the log goes to the result's stderr and nowhere later."""
    log = logging.getLogger("catalog")
    handlers, level = log.handlers[:], log.level
    try:
        return CliRunner().invoke(main, list(words), input=stdin, prog_name="cogcat")
    finally:
        log.handlers[:] = handlers
        log.setLevel(level)


def read_pixels(path: Path, level: int = 0) -> NDArray[Any]:
    options = {"overview_level": level - 1} if level else {}
    with rasterio.open(path, **options) as source:
        pixels = source.read()
    return pixels[0] if len(pixels) == 1 else pixels


def bucket_key(href: str) -> str:
    """``bucket/key`` of a real address."""
    host, _, key = href.removeprefix("https://").partition("/")
    return f"{host.partition('.')[0]}/{key}"


def _built(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], object]) -> Archive:
    """An archive built once per run, whichever worker needs it first."""
    directory = factory.getbasetemp().parent / name
    with FileLock(f"{directory}.lock"):
        if not (directory / "archive.json").exists():
            make(directory)
    return load_archive(directory)


@pytest.fixture(scope="session")
def c1_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Six scenes of Collection 1; do not change, ``archive`` is a copy."""
    return _built(
        "c1",
        tmp_path_factory,
        lambda path: build_archive(path, tiles=TILES, dates=DATES, width=546, block=128),
    )


@pytest.fixture(scope="session")
def dialects_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """One tile in every dialect, on a day before and one after offsets came in."""
    return _built(
        "dialects",
        tmp_path_factory,
        lambda path: build_archive(
            path,
            tiles=TILES[:1],
            dates=("2021-12-23", "2022-06-01"),
            dialects=("earth-search-c1", "earth-search-v1", "planetary-computer"),
            width=546,
            block=128,
        ),
    )


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Three tiles on seven dates with two bands of few chunks, to be crawled again and again."""
    return _built(
        "small",
        tmp_path_factory,
        lambda path: build_archive(
            path,
            tiles=(*TILES, "11TLL"),
            dates=[f"2023-{month:02}-03" for month in range(1, 8)],
            bands=("red", "scl"),
            width=132,
            block=64,
        ),
    )


@pytest.fixture
def archive(c1_archive: Archive) -> Archive:
    """A copy whose items a test may change; its files are everyone's."""
    return c1_archive.rebased(c1_archive.base_url)


@pytest.fixture
def own_files(archive: Archive, tmp_path: Path) -> Path:
    """The archive's files are a copy of the test's own, to write to."""
    directory = tmp_path / "archive"
    shutil.copytree(archive.files, directory / "files")
    archive.directory = directory
    return archive.files


@pytest.fixture
def server(archive: Archive) -> Iterator[ArchiveServer]:
    with ArchiveServer(archive) as running:
        yield running


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Address of an S3 server in memory, with a bucket ``repositories``."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # Moto's own server starts a thread and a connection for each request, and looks up the service.
    s3 = create_backend_app("s3")

    def noted(environ: dict[str, Any], start: Any) -> Any:
        S3_REQUESTS.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return s3(environ, start)

    server = waitress.create_server(
        noted,
        host="127.0.0.1",
        port=0,
        threads=8,
        connection_limit=10_000,
        # Not select, which ends with an error at the 1 024th file that is open.
        asyncore_use_poll=True,
    )
    threading.Thread(target=server.run, daemon=True).start()
    address = f"http://127.0.0.1:{server.effective_port}"
    make_bucket(s3_client(address), "repositories")
    yield address
    server.close()


def s3_client(address: str) -> Any:
    return boto3.client("s3", endpoint_url=address, region_name=REGION)


def make_bucket(client: Any, name: str) -> None:
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def open_stack(
    name: str,
    request: pytest.FixtureRequest,
    directory: Path,
    server: ArchiveServer,
    *,
    init: bool = True,
) -> Iterator[Stack]:
    """A new, empty catalog and repository on one of ``STACKS``."""
    sources = [{"name": "demo", "match": server.files_url, "url": server.files_url}]
    with contextlib.ExitStack() as opened:
        moto = None
        if name == "sqlite+local":
            database = f"sqlite:///{directory / 'cogcat.db'}"
            location = str(directory / "repo")
            if init:
                shutil.copy(request.getfixturevalue("_sqlite_template"), directory / "cogcat.db")
        else:
            moto = request.getfixturevalue("moto_server")
            postgres = request.getfixturevalue("postgres_server")
            template = "cogcat_template" if init else "template1"
            database = opened.enter_context(postgres_database(postgres, template))
            location = f"s3://repositories/{uuid.uuid4().hex}"
        stack = Stack(name, directory, database, location, server, sources, moto)
        stack.write_config()
        if init:
            stack.init(migrated=True)
        yield stack


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer) -> Iterator[Stack]:
    """An empty catalog, set up, on each stack."""
    with open_stack(request.param, request, tmp_path, server) as made:
        yield made


@pytest.fixture(params=STACKS)
def bare_stack(
    request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> Iterator[Stack]:
    """Configured, and no more: neither schema nor repository."""
    with open_stack(request.param, request, tmp_path, server, init=False) as made:
        yield made


@pytest.fixture
def local_stack(
    request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> Iterator[Stack]:
    """The light stack alone, for what no database and no object store has a part in."""
    with open_stack("sqlite+local", request, tmp_path, server) as made:
        yield made


@pytest.fixture(params=STACKS)
def dialects_stack(
    request: pytest.FixtureRequest, tmp_path: Path, dialects_archive: Archive
) -> Iterator[Stack]:
    """As ``stack``, over an archive of all three dialects."""
    copy = dialects_archive.rebased(dialects_archive.base_url)
    with ArchiveServer(copy) as running, open_stack(request.param, request, tmp_path, running) as s:
        yield s


@pytest.fixture(scope="session", params=STACKS)
def crawled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, c1_archive: Archive
) -> Iterator[Stack]:
    """A catalog with all of Collection 1 indexed, for tests that only read."""
    directory = tmp_path_factory.mktemp("crawled")
    with (
        ArchiveServer(c1_archive) as running,
        open_stack(request.param, request, directory, running) as made,
    ):
        made.crawl()
        yield made


@pytest.fixture
def s3_files(archive: Archive, moto_server: str) -> Iterator[dict[str, Any]]:
    """The archive's files in a bucket named as the real one, its hrefs real addresses; yields the
    source that reads them."""
    client, bucket = s3_client(moto_server), "e84-earth-search-sentinel-data"
    make_bucket(client, bucket)
    root = archive.files / bucket
    keys = [path.relative_to(root).as_posix() for path in root.rglob("*.tif")]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=(root / key).read_bytes(), ACL="public-read")
    real = f"https://{bucket}.s3.{REGION}.amazonaws.com/"
    before = f"{archive.base_url}/files/{bucket}/"
    archive.items = json.loads(json.dumps(archive.items).replace(before, real))
    yield {
        "name": "earth-search-c1",
        "match": real,
        "url": f"s3://{bucket}/",
        "endpoint": moto_server,
        "region": REGION,
    }
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    client.delete_bucket(Bucket=bucket)


@pytest.fixture
def s3_stack(
    s3_files: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path, server: ArchiveServer
) -> Iterator[Stack]:
    """PostgreSQL and S3, the files on S3 too: references carry ETags."""
    with open_stack("postgresql+s3", request, tmp_path, server, init=False) as made:
        made.sources = [s3_files]
        made.write_config()
        made.init()
        yield made
