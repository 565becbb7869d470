"""Memory that is freed goes back to the system, in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from catalog.memory import MMAP_THRESHOLD, give_back_large_blocks

MAPPED = """
import ctypes, sys
from catalog.memory import MMAP_THRESHOLD, give_back_large_blocks
class Info(ctypes.Structure):
    _fields_ = [(str(n), ctypes.c_size_t) for n in range(10)]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "ours":
    assert give_back_large_blocks()
libc.free(libc.malloc(8 * MMAP_THRESHOLD))  # what glibc learns from
before = getattr(libc.mallinfo2(), "4")
libc.malloc(4 * MMAP_THRESHOLD)
print(getattr(libc.mallinfo2(), "4") - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library")
def test_large_blocks_lie_outside_the_heap() -> None:
    """Also after one was freed, where glibc left alone takes them from the heap."""
    ours, glibc = (
        int(subprocess.check_output([sys.executable, "-c", MAPPED, who])) for who in ("ours", "not")
    )
    assert ours >= 4 * MMAP_THRESHOLD
    assert glibc == 0


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not give_back_large_blocks()
