"""The rooms of the package: imports point down, every module stands in a room, and `import unblot` is light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unblot

ROOT = Path(unblot.__file__).parent
ROOMS = (  # from the ground up; a room holds all modules whose names begin with its own, unless a longer name fits
    *("_version", "errors", "specs", "system", "config", "process", "nn", "text", "denoiser"),
    *("data.values", "data.split", "data.copies", "data.output", "data.readers", "data.image_spec", "data.cache"),
