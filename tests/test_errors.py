"""Errors travel between processes as they are."""

from __future__ import annotations

import pickle

import pytest

from catalog import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.CatalogError("a"),
        errors.ItemError("a", scene="s"),
        errors.HeaderError("a", scene="s", band="red", href="https://h/B04.tif"),
        errors.UnreadableFileError("a", scene="s", band="red", href="https://h/B04.tif"),
        errors.MissingFileError("a", band="red"),
        errors.DamagedFileError("a", band="red"),
        errors.SourceError("a"),
        errors.ChangedFileError("a", "s", "red", "https://h/B04.tif"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle(error: errors.CatalogError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))
