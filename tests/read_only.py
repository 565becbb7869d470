"""Run as ``python read_only.py HOW CONFIG``: a catalog where nothing can be written, by commands
and by Python; what each said as JSON. HOW: ``mount``, a file system that is read-only; or
``rights``, a process without the right to write."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

COMMANDS = {
    "status": ["status"],
    "search": ["search", "--format", "ids"],
    "init": ["init"],
    "repair": ["repair"],
    "break": ["repair", "--break-lease"],
    "maintain": ["maintain"],
    "rebuild": ["rebuild"],
    "crawl": ["crawl", "--stac", "http://127.0.0.1:9/"],
    "watch": ["watch", "add", "x", "--stac", "http://127.0.0.1:9/"],
}
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def main(how: str, config: str) -> None:
    directory = str(Path(config).parent)
    if how == "mount":
        os.unshare(os.CLONE_NEWNS)
        for words in (
            ["--make-rprivate", "/"],
            ["--bind", directory, directory],
            ["-o", "remount,bind,ro", directory],
        ):
            subprocess.run(["mount", *words], check=True)
    elif how == "drop":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
            raise PermissionError("no right to give up a right")
        # What may be had is looked at when a program is started.
        os.execv(sys.executable, [sys.executable, __file__, "rights", config])

    from click.testing import CliRunner

    import catalog
    from catalog.cli import main as cogcat

    said = {}
    for name, words in COMMANDS.items():
        done = CliRunner().invoke(cogcat, [*words, "--config", config])
        said[name] = [done.exit_code, done.stdout, done.stderr]
    with catalog.connect(config=config) as cat:
        values = cat.scene(cat.search().ids()[0]).open()["scl"].max().item()
        said["pixels"] = [values, len(cat.changes()), cat.search(bbox=(-180, -90, 180, 90)).count()]
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
