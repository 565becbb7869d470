"""Logs on stderr: JSON lines with their fields, and no secret in either form."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from stacks import C1, Stack, run_cli

from catalog import cli_crawl, logs
from catalog.errors import first_line, redacted
from catalog.redaction import is_secret_name

pytest_plugins = ["stacks"]


@pytest.fixture(autouse=True)
def the_logger_as_it_was() -> Iterator[None]:
    log = logging.getLogger("catalog")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


def lines(done: Result) -> list[dict[str, Any]]:
    """Every line of stderr; each must be an object."""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_crawl_as_json_lines(local_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = local_stack
    monkeypatch.setattr(cli_crawl, "PROGRESS", 0.0)
    href = stack.href(stack.items[0], "scl")
    stack.server.misbehave(href, status=404)
    done = stack.cli(
        "--log-format", "json", "crawl", "--stac", stack.server.stac_url, "--bands", "scl"
    )
    assert done.exit_code == 1
    found = lines(done)
    for line in found:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert line["time"].endswith("Z")
    (failed,) = [line for line in found if line["level"] == "warning"]
    assert (failed["scene"], failed["band"], failed["href"]) == (stack.items[0]["id"], "scl", href)
    assert "the file is missing" in failed["message"]
    commits = [line for line in found if "snapshot" in line]
    assert {line["branch"] for line in commits} == {f"{C1}/10TFR", f"{C1}/10TGR"}
    assert {line["snapshot"] for line in commits} == {
        row[0] for row in stack.rows("SELECT id FROM snapshots")
    }
    assert {line["crawl"] for line in [failed, *commits]} == {1}
    progress = [line for line in found if line["message"] == "crawling"]
    assert progress
    assert progress[-1]["found"] == 6
    # The answer is where it was.
    assert "6 found" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--log-format", "json", "search", "--tile", "10TFR"],
        ["search", "--tile", "10TFR", "--log-format", "json"],
        ["--log-format", "json", "search", "--bogus"],
        ["--log-format", "json", "bogus"],
        ["--log-format", "json", "search", "--tile", "nowhere"],
    ],
)
def test_what_goes_to_stderr_is_json_alone(local_stack: Stack, words: list[str]) -> None:
    done = local_stack.cli(*words)
    found = lines(done)
    assert len(found) == 1
    assert found[0]["level"] == ("info" if done.exit_code == 0 else "error")


def test_the_environment_chooses_too(local_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COGCAT_LOG_FORMAT", "json")
    assert lines(local_stack.cli("search"))[0]["message"] == "0 scenes"
    done = local_stack.cli("search", "--log-format", "text")
    assert done.stderr == "0 scenes\n"
    monkeypatch.setenv("COGCAT_LOG_LEVEL", "error")
    assert local_stack.cli("search").stderr == ""


def test_an_unexpected_error_has_its_traceback_in_a_field(
    local_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("at https://host/a?sig=c2VjcmV0&x=1")

    monkeypatch.setattr("catalog.lookup.Catalog.search", broken)
    done = local_stack.cli("--log-format", "json", "search")
    (line,) = lines(done)
    assert done.exit_code == 70
    assert (line["level"], line["error"]) == ("critical", "ZeroDivisionError")
    assert "in broken" in line["traceback"]
    assert "c2VjcmV0" not in done.stderr
    text = local_stack.cli("search")
    assert text.exit_code == 70
    assert text.stderr.startswith("cogcat: unexpected ZeroDivisionError: at https://host/a?sig=…")
    assert "`--log-level debug`" in text.stderr
    assert "Traceback" not in text.stderr
    told = local_stack.cli("--log-level", "debug", "search")
    assert "in broken" in told.stderr
    assert "c2VjcmV0" not in text.stderr + told.stderr


def test_warnings_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        undo = logs.configure("json")
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
        undo()
        (line,) = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
        assert (line["logger"], line["level"]) == ("py.warnings", "warning")
        assert "mind the gap" in line["message"]
    assert not logging.getLogger("py.warnings").handlers


@pytest.mark.parametrize("style", logs.FORMATS)
def test_no_secret_is_logged(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    undo = logs.configure(style, "debug")
    log = logging.getLogger("catalog.test")
    log.info("at %s", "postgresql://cogcat:hunter2@db/x", extra={"href": "https://a/b?sig=hunter2"})
    try:
        raise OSError("GET https://h/k?st=1&sig=hunter2%3D&se=2: 403")
    except OSError:
        log.exception("broken")
    log.info("AWS_SECRET_ACCESS_KEY=hunter2 X-Amz-Security-Token=hunter2&b=1")
    undo()
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "postgresql://…@db/x" in said
    assert "st=1&sig=…&se=2" in said


@given(
    st.text(st.characters(categories=["L", "N"]), min_size=1).filter(
        lambda text: not is_secret_name(text)
    )
)
def test_what_is_no_secret_stays(text: str) -> None:
    plain = f"{text}: s3://bucket/{text}.tif?versionId={text} cloud=12"
    assert redacted(plain) == plain
    assert first_line(ValueError(f"sig={text}")) == "sig=…"


def test_a_message_of_two_lines_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    undo = logs.configure("json")
    logging.getLogger("catalog").info("one\ntwo", extra={"scene": None, "at": datetime(2024, 1, 2)})  # noqa: DTZ001
    undo()
    (line,) = capsys.readouterr().err.splitlines()
    document = json.loads(line)
    assert document["message"] == "one\ntwo"
    assert "scene" not in document
    assert document["at"] == "2024-01-02T00:00:00"


def test_the_demo_takes_them_from_cogcat(tmp_path: Any) -> None:
    assert run_cli("--log-level", "debug", "--help").exit_code == 0
    assert run_cli("--log-format", "xml", "search").exit_code == 2
