"""How a process that runs for long gives memory back."""

from __future__ import annotations

import ctypes

MMAP_THRESHOLD = 131_072
"""Bytes: glibc's own first guess, which it would otherwise move up as it goes, to 32 MB."""
_M_MMAP_THRESHOLD = -3  # malloc.h


def give_back_large_blocks() -> bool:
    """From now on a block of ``MMAP_THRESHOLD`` bytes or more goes back to the system when it is
    freed. Otherwise glibc learns from the first one that is freed to cut such blocks out of its
    heap, which small ones that stay keep from ever shrinking. Of the whole process; safe to repeat.

    Returns:
        False where the C library is another and has no such setting: nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD))
