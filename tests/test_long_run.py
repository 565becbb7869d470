"""The long run, made short: days pass, upkeep runs, and nothing grows but the scenes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


@pytest.fixture
def long_run(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("long_run", ROOT / "scripts" / "long_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "long_run", module)
    spec.loader.exec_module(module)
    return module


def test_days_pass(long_run: Any, tmp_path: Path) -> None:
    days, last = 8, -1
    lived = long_run.live(tmp_path, days=days, tiles=2, keep=1, weekly=2, width=132)
    assert len(lived) == days
    assert sum(day.indexed for day in lived) >= lived[last].scenes >= 4
    # The last day was one of upkeep: what lies there is what is read, and little more.
    assert lived[last].objects < 2 * lived[0].objects
    assert lived[last].store / lived[last].scenes < lived[0].store / lived[0].scenes
