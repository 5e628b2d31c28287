"""The entries of the package's tables with their options, for the help of the command line.

They are read from the source of the modules that hold the tables and never imported: `unblot --help` answers without
PyTorch, and an entry that is added to its table stands in the help.
"""

import ast
import dataclasses
from functools import cache
from pathlib import Path

DECIDED = "decided by the preset and the data"
PACKAGE = Path(__file__).parents[1]
TABLES = {  # the module of each table
    "AUGMENTATIONS": "data/augment.py",
    "BUILT_IN": "data/readers/sources.py",
    "COLOURS": "data/image_spec.py",
    "COUPLINGS": "training/batches.py",
    "DECAYS": "training/learning_rate.py",
    "EMAS": "training/averages/ema.py",
    "FEATURES": "evaluation/features.py",
    "NETWORKS": "nn/__init__.py",
    "OBJECTIVES": "losses.py",
    "OPTIMIZERS": "training/optim.py",
    "PARAMETERIZATIONS": "process/parameterizations.py",
    "PRESETS": "config/presets.py",
    "QUALITIES": "sampling/settings.py",
    "SCHEDULES": "process/schedules.py",
    "SOLVERS": "sampling/solvers.py",
    "SPACINGS": "sampling/spacing.py",
    "SPECTRA": "training/plan.py",
    "TEXT_ENCODERS": "text/encoder.py",
    "THRESHOLDS": "sampling/guidance.py",
    "TIMES": "training/batches.py",
    "WEIGHTINGS": "losses.py",
}


@cache
def entries(table: str) -> dict[str, dict[str, str]]:
    """The options of each entry of a table, as name -> default, in the order of the table."""
    tree = _tree(PACKAGE / TABLES[table])
    value = _assigned(tree, table)
    if isinstance(value, ast.Dict):
        return {ast.literal_eval(k): _options(tree, v) for k, v in zip(value.keys, value.values) if k is not None}
    return {name: {} for name in ast.literal_eval(value or ast.Tuple([]))}


def names(table: str) -> str:
    """The names of a table's entries in one line."""
    return ", ".join(entries(table))


def with_options(table: str) -> list[str]:
    """The entries of a table that have options, each as it is given with its defaults: `ddim:eta=0.0`."""
    return [
        f"{name}:" + ",".join(f"{k}={v}" for k, v in options.items())
        for name, options in entries(table).items()
        if options
    ]


def help_of(field: dataclasses.Field) -> str:
    """What a choice of a configuration is, the entries of its table, and its default."""
    about, default = field.metadata, field.default
    text, bracket, own = about["help"].partition(" (default:")
    if about["table"]:
        text += f": {names(about['table'])}"
    if not bracket and default is dataclasses.MISSING:
        own = f" {DECIDED})"
    elif not bracket and default not in (None, "") and default is not False:
        own = f" {default})"
    return text + (f" (default:{own}" if own else "")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """The expression that a module assigns to a name, or that the module that it is imported from does."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and _imports(node, name):
            return _assigned(_tree(_module(node)), name)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            pairs = zip(target.elts, node.value.elts) if several else [(target, node.value)]  # type: ignore[attr-defined]
            for one, value in pairs:
                if isinstance(one, ast.Name) and one.id == name:
                    return value
    return None


def _options(tree: ast.Module, factory: ast.expr) -> dict[str, str]:
    """The keyword-only parameters of a function or class that a module defines or imports."""
    if not isinstance(factory, ast.Name):
        return {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and _imports(node, factory.id):
            return _options(_tree(_module(node)), factory)
        if isinstance(node, ast.ClassDef) and node.name == factory.id:
            made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            return _keywords(tree, made[0]) if made else {}
        if isinstance(node, ast.FunctionDef) and node.name == factory.id:
            return _keywords(tree, node)
    return {}


def _keywords(tree: ast.Module, function: ast.FunctionDef) -> dict[str, str]:
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults)
    return {argument.arg: _default(tree, value) for argument, value in pairs if value is not None}


def _default(tree: ast.Module, value: ast.expr) -> str:
    """A default as text; the name of a constant is replaced by its value."""
    if isinstance(value, ast.Name) and (constant := _assigned(tree, value.id)) is not None:
        value = constant
    return str(value.value) if isinstance(value, ast.Constant) else ast.unparse(value)


def _imports(node: ast.ImportFrom, name: str) -> bool:
    return (node.module or "").startswith("unblot.") and name in {alias.name for alias in node.names}


def _module(node: ast.ImportFrom) -> Path:
    path = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
