"""The layers of the package: imports point down, nothing forbidden is imported, and `import unblot` is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unblot

ROOT = Path(unblot.__file__).parent
LAYERS = [  # from the ground up; modules of one layer may use each other
    {"errors", "specs"},
    {"process"},
    {"nn"},
    {"denoiser", "bound", "losses"},
    {"sampling"},
    {"data"},
    {"run", "config", "presets"},
    {"training"},
    {"evaluation"},
]  # every other module of the package is on top of these: the Python interface, the commands, the studio
FORBIDDEN = {"torchvision", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FILES = sorted(ROOT.rglob("*.py"))


def layer_of(module: str) -> int:
    """The number of the layer that `unblot.<module>` stands on."""
    top = module.split(".")[0]
    return next((i for i, names in enumerate(LAYERS) if top in names), len(LAYERS))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_imports_point_down(path: Path) -> None:
    here = layer_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for name in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN
        if top == "unblot" and rest:
            assert layer_of(rest) <= here, f"{name} stands above {path.name}"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES])
def test_nothing_is_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            assert call not in ("torch.load", "torch.save"), "safetensors holds tensors"
            for keyword in node.keywords:
                assert keyword.arg != "allow_pickle" or ast.unparse(keyword.value) == "False"


def test_files_are_small() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 300}
    assert not long


def test_importing_unblot_brings_in_no_more_than_it_needs() -> None:
    heavy = "h5py tifffile imagecodecs sklearn scipy matplotlib datasets tensorboard PIL diffusers rich"
    code = f"import sys, unblot; print(*[m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_exported_name_is_a_module_which_would_take_its_place_when_imported() -> None:
    assert [name for name in unblot.__all__ if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()] == []
