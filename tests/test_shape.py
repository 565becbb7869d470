"""The architecture: imports point one way, and two rooms never meet."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import catalog.errors
from catalog.errors import CatalogError

PACKAGE = Path(catalog.errors.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if "_migrations" not in path.parts
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

ORDER = [
    {"printable", "redaction", "errors", "memory", "blame", "bounds"},
    {"logs", "hrefs", "settings", "patience", "bands", "json_values", "names", "parse"},
    {"mending", "footprint", "area", "affine", "ground", "unreadable", "page_json"},
    {"scene", "boa_offset", "item_assets", "item_properties", "item"},
    {"parquet_process", "item_parquet", "item_file", "item_shelf"},
    {"stac_answer", "stac_links", "stac_api", "stac_query", "stac_pages", "stac_whole"},
    {"stac_search"},
    {
        "directories",
        "levels",
        "signing",
        "redirects",
        "sources",
        "remote_file",
        "header",
        "cluster",
    },
    {"cube", "masks", "missing", "seam", "grid", "warp", "mosaic"},
    {"storage", "repository", "cube_writer", "contents", "commit_check"},
    {"codecs", "chunk_reader", "read_errors", "accessor", "steps", "arrays", "virtual"},
    {"scene_files", "file_check", "itemless"},
    {
        "recorded",
        "stac_items",
        "item_table",
        "portable_sql",
        "models",
        "sql_errors",
        "sqlite_file",
        "compiled",
        "database",
    },
    {"views", "mosaic_array", "opening", "opening_area"},
    {"registry", "tiles", "assets", "failures", "known", "records", "heads", "placed", "status"},
    {"filter_tree", "filter_bounds", "filter_cql2", "query", "tokens", "filter_sql", "scene_rows"},
    {"selection", "tile_boxes", "answers"},
    {"item_rows", "changes", "lease", "expiry", "watches", "report", "revisit", "identity"},
    {"recovery", "committer", "sieve", "sync", "crawl", "rebuild", "upkeep"},
    {"moments", "stored_scene", "overview", "search_result", "lookup", "preview"},
    {"setup", "__init__"},
    {"cron"},
    {"metrics", "cli_options", "cli_status", "cli_crawl", "cli_export", "cli_upkeep", "cli"},
]
"""A module imports from its own row and those above. A new one finds its row here."""

STORE = {
    "icechunk", "zarr", "catalog.storage", "catalog.repository", "catalog.cube_writer",
    "catalog.contents", "catalog.commit_check", "catalog.arrays", "catalog.codecs",
    "catalog.chunk_reader", "catalog.read_errors", "catalog.steps",
}  # fmt: skip
SQL = {
    "sqlalchemy", "catalog.portable_sql", "catalog.models", "catalog.sql_errors",
    "catalog.compiled", "catalog.sqlite_file", "catalog.database", "catalog.registry",
    "catalog.tiles", "catalog.assets", "catalog.failures", "catalog.known", "catalog.records",
    "catalog.heads", "catalog.status", "catalog.sieve", "catalog.sync", "catalog.selection",
    "catalog.lease", "catalog.expiry", "catalog.watches",
    "catalog.filter_sql", "catalog.scene_rows", "catalog.tile_boxes", "catalog.answers",
    "catalog.changes", "catalog.item_rows", "catalog.placed",
}  # fmt: skip
COMPOSERS = {
    "identity",
    "recovery",
    "committer",
    "crawl",
    "rebuild",
    "upkeep",
    "setup",
    "lookup",
    "moments",
    "search_result",
    "stored_scene",
    "__init__",
}
"""May know both the store and SQL: the write path, the read path and what opens them."""


def imports(name: str, *, at_runtime: bool = True) -> set[str]:
    """Modules that a module imports anywhere, ours with ``catalog.`` in front."""
    found: set[str] = set()
    typing_only = {
        id(node)
        for branch in ast.walk(TREES[name])
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(TREES[name]):
        if at_runtime and id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module
            if node.module == "catalog":
                ours = {f"catalog.{alias.name}" for alias in node.names}
                found |= {module for module in ours if module.removeprefix("catalog.") in MODULES}
                found |= (
                    {"catalog"}
                    if any(m.removeprefix("catalog.") not in MODULES for m in ours)
                    else set()
                )
            else:
                found.add(node.module)
    return found


def ours(name: str) -> set[str]:
    return {
        module.removeprefix("catalog.") if module != "catalog" else "__init__"
        for module in imports(name)
        if module == "catalog" or module.startswith("catalog.")
    }


def row_of(name: str) -> int:
    for number, row in enumerate(ORDER):
        if name in row:
            return number
    raise AssertionError(f"catalog/{name}.py has no row in ORDER")


FLAT = sorted(name for name in MODULES if not name.startswith("demo"))


@pytest.mark.parametrize("name", FLAT)
def test_imports_point_up_the_table(name: str) -> None:
    for other in ours(name) - {"__init__"}:
        if other.startswith("demo"):
            assert name == "cli", f"{name} imports the demo"
            continue
        assert row_of(other) <= row_of(name), f"{name} imports {other}, which is below it"


def test_imports_have_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for other in ours(name):
                if other in MODULES:
                    visit(other, (*path, name))
            done.add(name)

    for name in FLAT:
        if name.startswith("cli"):
            continue
        visit(name, ())


def reached(name: str, seen: set[str]) -> set[str]:
    for other in ours(name) - seen:
        if other in MODULES:
            seen.add(other)
            reached(other, seen)
    return seen


def test_the_write_path_and_the_read_path_never_meet() -> None:
    assert "lookup" not in reached("crawl", set())
    assert "stored_scene" not in reached("crawl", set())
    assert "crawl" not in reached("lookup", set())
    assert "cube_writer" not in reached("lookup", set())


@pytest.mark.parametrize("name", FLAT)
def test_only_composers_know_store_and_sql(name: str) -> None:
    def touches(what: set[str]) -> set[str]:
        return {
            module for module in imports(name) if module in what or module.partition(".")[0] in what
        }

    if touches(STORE) and touches(SQL):
        assert name in COMPOSERS, f"{name}: {touches(STORE)} and {touches(SQL)}"


def test_the_writer_never_sees_sql_and_the_tables_never_see_icechunk() -> None:
    for name in ("storage", "repository", "cube_writer", "arrays", "cube", "header"):
        assert not {f"catalog.{other}" for other in reached(name, set())} & SQL, name
    for name in ("models", "database", "registry", "records", "heads", "status", "selection"):
        assert not {f"catalog.{other}" for other in reached(name, set())} & STORE, name


def test_values_and_layout_are_pure() -> None:
    """No network, no database, no store below these."""
    for name in ("scene", "item", "item_assets", "boa_offset", "bands", "parse", "area", "hrefs"):
        assert not imports(name) & {"icechunk", "sqlalchemy", "requests", "obstore", "zarr"}, name
        assert not reached(name, set()) & {"sources", "header", "stac_api", "database"}, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_command_line_prints(name: str) -> None:
    if name.startswith(("cli", "demo")):
        return
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "click.echo", "sys.stdout.write"), f"{name}: {called}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("cli")))
def test_what_is_printed_is_made_printable(name: str) -> None:
    """``cli_options.say`` and its like are the one way out; bytes, and JSON of ``json_line``."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and name not in ("cli_options", "cli_export"):
            called = ast.unparse(node.func)
            assert called not in ("print", "click.echo", "click.secho", "err.print"), name
            assert called != "json.dumps", name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_settings_reads_the_environment(name: str) -> None:
    if name == "settings":
        return
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("os.environ", "os.getenv"), name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is(name: str) -> None:
    text = ast.get_docstring(TREES[name])
    assert text, name
    assert text.splitlines()[0].endswith((".", "::", ":")), name
    for node in TREES[name].body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or _is_small(node), f"{name}.{node.name}"


def _is_small(node: ast.ClassDef) -> bool:
    return len(node.body) <= 4


def test_the_error_tree_is_as_drawn() -> None:
    drawn: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    assert catalog.errors.__doc__
    for line in catalog.errors.__doc__.splitlines():
        word = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        name = word.strip().partition(" ")[0]
        if not name.endswith("Error") or not isinstance(getattr(catalog.errors, name, None), type):
            continue
        depth = len(word) - len(word.lstrip())
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if stack:
            drawn[name] = stack[-1][1]
        stack.append((depth, name))
    real = {
        name: base.__name__
        for name, cls in inspect.getmembers(catalog.errors, inspect.isclass)
        if issubclass(cls, CatalogError)
        for base in cls.__bases__
        if issubclass(base, CatalogError)
    }
    assert drawn == real
    assert len(drawn) >= 8


def test_help_waits_for_no_library() -> None:
    """`cogcat --help`, and every usage error: what takes seconds to import is for those who need
    it."""
    code = "import sys, catalog.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"icechunk", "numpy", "pandas", "shapely", "sqlalchemy", "xarray", "zarr"}
    assert not heavy & set(done.stdout.split())
