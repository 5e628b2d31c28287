"""What a release says of itself agrees, and what its checks run exists."""

import re
import tomllib
from pathlib import Path

import unblot

ROOT = Path(__file__).parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    changes = re.findall(r"^## (\d\S+) - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = dict(
        re.findall(r'^(version|date-released): "?([^"\n]+)"?$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    )
    assert changes[0] == (unblot.__version__, cited["date-released"])
    assert cited["version"] == unblot.__version__


def test_changes_are_of_the_kinds_that_are_agreed() -> None:
    kinds = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_target_says_what_it_makes() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = text.partition(".PHONY: ")[2].split("\n")[0].split()
    assert set(phony) == set(re.findall(r"^(\w+):.*## \w", text, re.MULTILINE))


def test_checks_of_a_push_make_what_can_be_made() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = (ROOT / ".github" / "workflows" / "check.yml").read_text() + (ROOT / ".ci" / "run").read_text()
    assert {"check", "docs", "package", "demo"} <= set(re.findall(r"\bmake (\w+)", steps)) <= targets


def test_the_wheel_holds_all_that_is_no_code() -> None:
    """Templates, styles, scripts and the marker of types by patterns; and each folder of code is a package."""
    package = ROOT / "src" / "unblot"
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["unblot"]
    held = {found for pattern in patterns for found in package.glob(pattern)}
    others = {file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert others <= held
    assert package / "py.typed" in held
    assert all((folder / "__init__.py").exists() for folder in {file.parent for file in package.rglob("*.py")})
