"""Rewrites the exact pins in pyproject.toml from what uv resolves today.

    python scripts/pin.py

``uv.lock`` names the hosts it downloads from, so it stays out of git; these pins carry no
address and give the same environment anywhere. Run the tests afterwards, and commit both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
PINS = re.compile(r"constraint-dependencies = \[.*?\]\n", re.DOTALL)


def main() -> None:
    text = PYPROJECT.read_text(encoding="utf-8")
    PYPROJECT.write_text(with_pins(text, []), encoding="utf-8")
    try:
        _uv("lock", "--upgrade", "--quiet")
        exported = _uv(
            "export", "--quiet", "--no-hashes", "--no-annotate", "--no-header",
            "--no-emit-project", "--all-extras", "--all-groups",
        )  # fmt: skip
    except BaseException:
        PYPROJECT.write_text(text, encoding="utf-8")
        raise
    pins = [line for line in exported.splitlines() if re.match(r"[\w.\-\[\]]+==", line)]
    PYPROJECT.write_text(with_pins(text, pins), encoding="utf-8")
    print(f"{len(pins)} pins in {PYPROJECT.name}")


def with_pins(text: str, pins: list[str]) -> str:
    """``text`` of a pyproject.toml with ``pins`` in place of those it has."""
    lines = "".join(f"    {json.dumps(pin)},\n" for pin in pins)
    value = f"constraint-dependencies = [\n{lines}]\n" if pins else "constraint-dependencies = []\n"
    if not PINS.search(text):
        raise SystemExit("pyproject.toml has no constraint-dependencies to rewrite")
    return PINS.sub(lambda _: value, text, count=1)


def _uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    done = subprocess.run(
        command, cwd=PYPROJECT.parent, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
