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
    *("data.values", "data.split", "data.subset", "data.copies", "data.output", "data.shards", "data.readers"),
    *(
        "data.opacity",
        "data.image_spec",
        "data.cache",
        "data.pack",
        "data.dataset",
        "data.augment",
        "data.clusters",
        "data.audit",
        "latent",
        "vlb",
        "losses",
        "sampling",
        "runs",
    ),
    *("training", "distillation", "evaluation", "editing", "reports", "tuning", "interchange", "api", "serving"),
    *("lessons", "studio", "cli", "__main__"),
)
FORBIDDEN = {"torchvision", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FILES = sorted(ROOT.rglob("*.py"))
NAMES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".") for path in FILES
}
MODULES = set(NAMES.values()) - {""}


def room_of(module: str) -> int | None:
    """The number of the room that `unblot.<module>` stands in: that of the longest name that fits."""
    fitting = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    return ROOMS.index(max(fitting, key=len)) if fitting else None


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def arrows(path: Path) -> set[str]:
    """The modules of the package that a file imports, without the package's name."""
    own = (name.removeprefix("unblot.") for name in imports(ast.parse(path.read_text())) if name.startswith("unblot."))
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


@pytest.mark.parametrize("path", FILES, ids=NAMES.values())
def test_imports_point_down(path: Path) -> None:
    if NAMES[path]:  # the package's face may name everything, which it imports when it is asked for
        here = room_of(NAMES[path])
        assert here is not None or path.stat().st_size == 0, f"{NAMES[path]} stands in no room"
        upward = [name for name in arrows(path) if name and (room_of(name) or 0) > (here or 0)]
        assert not upward, f"{NAMES[path]} imports from rooms above it"
        assert "" not in arrows(path), "no module imports the package's face"


def test_imports_make_no_circle() -> None:
    left = {NAMES[path]: arrows(path) - {NAMES[path]} for path in FILES if NAMES[path]}
    while free := {name for name, wanted in left.items() if not wanted & set(left)}:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("path", FILES, ids=NAMES.values())
def test_nothing_is_unpickled(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not FORBIDDEN & {name.partition(".")[0] for name in imports(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            if NAMES[path] not in ("evaluation.efficientnet", "interchange.pickled"):  # weights of others are pickled
                assert call not in ("torch.load", "torch.save"), "safetensors holds tensors"
            elif call == "torch.load":
                assert [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"] == ["True"]
            for keyword in node.keywords:
                assert keyword.arg != "allow_pickle" or ast.unparse(keyword.value) == "False"


def test_files_functions_and_classes_are_small() -> None:
    long = {NAMES[path]: n for path in FILES if (n := len(path.read_text().splitlines())) > 300}
    limits = {ast.FunctionDef: 50, ast.AsyncFunctionDef: 50, ast.ClassDef: 200}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            lines = (node.end_lineno or 0) - node.lineno + 1 if type(node) in limits else 0
            if lines > limits.get(type(node), 0):
                long[f"{NAMES[path]}.{node.name}"] = lines
    assert not long


def test_importing_unblot_brings_in_no_more_than_it_needs() -> None:
    heavy = "h5py tifffile imagecodecs sklearn scipy matplotlib datasets tensorboard PIL diffusers rich"
    code = f"import sys, unblot; print(*[m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_exported_name_is_a_module_which_would_take_its_place_when_imported() -> None:
    assert [name for name in unblot.__all__ if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()] == []


def test_drawing_a_picture_imports_nothing_of_training(tmp_path: Path) -> None:
    code = (
        "import sys, unblot; unblot.load(sys.argv[1]).sample(1, steps=1); "
        "print(*[name for name in sys.modules if name.startswith('unblot.training')])"
    )
    run = unblot.train("digits", steps=1, batch_size=4, out=tmp_path / "run", quiet=True, network="unet:width=16")
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_table_of_rooms_in_contributing_is_this_list() -> None:
    table = (ROOT.parents[1] / "CONTRIBUTING.md").read_text().partition("## Package layout")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == ROOMS[::-1]


def test_the_glossary_names_code_that_is_there() -> None:
    names = re.findall(r"`([a-z][\w/.]*)`", (ROOT.parents[1] / "docs" / "glossary.md").read_text())
    named = [name for name in names if "/" in name or name.endswith(".py")]
    assert len(named) > 20
    for name in named:
        file, _, attribute = name.rstrip("/").removesuffix(".py").partition(".")
        assert (ROOT / file).is_dir() or (ROOT / f"{file}.py").is_file(), name
        assert not attribute or f" {attribute}" in (ROOT / f"{file}.py").read_text().replace("\n", " "), name
