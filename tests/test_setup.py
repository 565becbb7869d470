"""``cogcat init`` on both stacks: what it makes, that it repeats, and which store it refuses."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stacks import C1, SCENES, Stack

from catalog.errors import ConfigError
from catalog.models import REVISION
from catalog.repository import Repository
from catalog.settings import BUILT_IN_SOURCES
from catalog.setup import set_up

pytest_plugins = ["stacks"]

CONTAINERS = ["demo", *sorted(source.name for source in BUILT_IN_SOURCES)]


def test_init_makes_both_and_repeats(bare_stack: Stack) -> None:
    stack = bare_stack
    done = stack.cli("init", "--json")
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["revision"], made["repository"]) == (REVISION, stack.location)
    assert made["containers"] == sorted(CONTAINERS)
    assert stack.rows("SELECT version_num FROM alembic_version") == [(REVISION,)]
    repository = stack.repository()
    main = repository.icechunk.lookup_branch("main")
    stack.crawl(bands=["scl"])
    before = stack.everything()

    again = stack.cli("init")
    assert again.exit_code == 0
    assert f"at revision {REVISION}" in again.stdout
    assert stack.everything() == before
    assert stack.repository().icechunk.lookup_branch("main") == main
    assert len(stack.rows("SELECT * FROM repositories")) == 1
    assert stack.crawl(bands=["scl"]).unchanged == SCENES


def test_a_source_can_be_added_and_moved(bare_stack: Stack) -> None:
    """References name their container, so a mirror needs no rewriting of them."""
    stack = bare_stack
    stack.init()
    stack.crawl(bands=["scl"], tiles=["10TFR"])
    with stack.connect() as cat:
        scene = next(iter(cat.search()))
        expected = scene.open(bands=["scl"])["scl"].to_numpy()
    files = stack.server.archive.files.as_uri() + "/"
    stack.sources[0]["url"] = files
    stack.sources.append({"name": "more", "match": "s3://more/", "url": "s3://more/"})
    stack.write_config()
    stack.init()
    assert stack.repository().containers["demo"] == files
    assert "more" in stack.repository().containers
    stack.server.requests.reset()
    with stack.connect() as cat:
        ours = cat.scene(scene.id).open(bands=["scl"])["scl"].to_numpy()
    assert (ours == expected).all()
    assert stack.file_requests() == []


def test_main_says_what_the_repository_is(bare_stack: Stack) -> None:
    bare_stack.init()
    import zarr

    session = bare_stack.repository().icechunk.readonly_session("main")
    described = dict(zarr.open_group(session.store, mode="r").attrs)["cogcat"]
    assert isinstance(described, dict)
    assert {"branches", "groups", "arrays", "references", "order"} <= set(described)
    assert C1.partition("-")[0] not in str(described)


class ForgetfulS3(BaseHTTPRequestHandler):
    """In front of an S3 server, and drops the conditions of a write as some stores do."""

    upstream = ""
    dropped: tuple[str, ...] = ("if-none-match", "if-match")

    def forward(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in (*self.dropped, "host", "connection")
        }
        request = urllib.request.Request(
            self.upstream + self.path, data=body, headers=headers, method=self.command
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                status, found, content = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, found, content = error.code, error.headers, error.read()
        self.send_response(status)
        for name, value in found.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["if-none-match if-match", "if-match", "if-none-match"])
def forgetful_s3(moto_server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    dropped = tuple(request.param.split())
    handler = type("Handler", (ForgetfulS3,), {"upstream": moto_server, "dropped": dropped})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_store_that_ignores_conditions_is_refused(forgetful_s3: str, tmp_path: Path) -> None:
    from stacks import run_cli

    config = tmp_path / "cogcat.toml"
    config.write_text(
        f'database = "sqlite:///{tmp_path / "cogcat.db"}"\n[repository]\n'
        f'location = "s3://repositories/forgetful"\nendpoint = "{forgetful_s3}"\n'
    )
    done = run_cli("init", "--config", str(config))
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "s3://repositories/forgetful: the object store ignores conditional writes" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cogcat.toml"]


def test_the_probe_leaves_nothing_behind(bare_stack: Stack) -> None:
    from stacks import s3_client

    bare_stack.init()
    if bare_stack.moto is None:
        assert not list(bare_stack.directory.glob("*probe*"))
        return
    prefix = bare_stack.location.rpartition("/")[2]
    found = s3_client(bare_stack.moto).list_objects_v2(Bucket="repositories", Prefix=prefix)
    keys = [entry["Key"] for entry in found["Contents"]]
    assert keys
    assert not [key for key in keys if "probe" in key]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://no-such-bucket/x", "no-such-bucket"),
        ("s3://repositories", "name a prefix too"),
        ("gs://bucket/x", "give a path or s3://bucket/prefix"),
        ("{directory}/cogcat.toml", "a file is in the way"),
    ],
)
def test_a_repository_that_cannot_be(bare_stack: Stack, location: str, message: str) -> None:
    stack = bare_stack
    stack.location = location.format(directory=stack.directory)
    if not stack.moto and "no-such" in location:
        pytest.skip("no object store here")
    stack.write_config()
    done = stack.cli("init")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (stack.directory / "cogcat.db").exists()
    with pytest.raises(ConfigError, match=message):
        set_up(stack.settings)


def test_a_database_that_cannot_be(bare_stack: Stack) -> None:
    bare_stack.database = "postgresql://nobody:secret@127.0.0.1:9/none"
    bare_stack.write_config()
    done = bare_stack.cli("init")
    assert done.exit_code == 2
    assert "secret" not in done.output
    assert "127.0.0.1:9" in done.stderr


def test_opening_needs_an_init(bare_stack: Stack) -> None:
    settings = bare_stack.settings
    with pytest.raises(ConfigError, match="run `cogcat init`"):
        Repository.open(settings.repository, settings.sources, settings.repository_options)
