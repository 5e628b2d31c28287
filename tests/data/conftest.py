"""Dataset caches of these tests go to a folder of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder of this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNBLOT_CACHE", str(folder))
    return folder
