"""What the documentation says of the library: its examples run, and the names that it promises are there."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import unblot
from unblot.sampling import SOLVERS

ROOT = Path(unblot.__file__).parents[2]
PACKAGES = ("unblot", "unblot.process", "unblot.sampling", "unblot.evaluation")
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "library.md").read_text(), flags=re.MULTILINE)[1:]
RECIPES = {part.splitlines()[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL) for part in SECTIONS}


def test_there_are_six_recipes() -> None:
    assert [title[0] for title, blocks in RECIPES.items() if blocks] == list("123456")


@pytest.mark.parametrize("title", [title for title, blocks in RECIPES.items() if blocks])
def test_a_recipe_runs(title: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "quieter", SOLVERS["ddim"])  # which a recipe adds: it goes with the test
    namespace: dict = {}
    for block in RECIPES[title]:
        exec(compile(block, title, "exec"), namespace)


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_the_examples_of_a_package_give_what_they_say(package: str) -> None:
    found = doctest.testmod(importlib.import_module(package))
    assert found.attempted > 3
    assert not found.failed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_promised_name_is_there_for_programs_and_for_type_checkers(package: str) -> None:
    module = importlib.import_module(package)
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    tree = ast.parse(Path(module.__file__ or "").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(module.__all__) <= imported  # below TYPE_CHECKING, or at once
    folder = Path(module.__file__ or "").parent
    assert not [name for name in module.__all__ if (folder / f"{name}.py").exists() or (folder / name).is_dir()]


def test_importing_the_packages_costs_nothing_until_a_name_is_used() -> None:
    code = f"import sys, {', '.join(PACKAGES)}; print({{'torch', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_extra_that_a_message_names_can_be_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for path in ROOT.glob("src/**/*.py") for name in re.findall(r"unblot\[(\w+)\]", path.read_text())}
    assert "serve" in named
    assert named <= set(extras)
