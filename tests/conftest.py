"""What holds for every test: property tests try the same examples each time, none is about time, and none uses or
leaves anything in the user's cache."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("unblot", deadline=None, derandomize=True, database=None)
settings.register_profile("thousands", settings.get_profile("unblot"), max_examples=600)  # of requests, by hand
settings.load_profile("unblot")


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder of dataset caches for this run of the tests alone."""
    before = os.environ.get("UNBLOT_CACHE")
    os.environ["UNBLOT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["UNBLOT_CACHE"]
    else:
        os.environ["UNBLOT_CACHE"] = before
