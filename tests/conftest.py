"""What holds for every test: property tests try the same examples each time, and none is about time."""

from hypothesis import settings

settings.register_profile("unblot", deadline=None, derandomize=True, database=None)
settings.load_profile("unblot")
