"""Networks of one's own: `mymodule:MyNet,width=32` names a class in a module of the working directory or installed.

A module is code. It is imported only where a person has named it, in `import_networks` or at the command line, never
because a file names it: not a model, not a run's configuration.
"""

import importlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from unblot.errors import UnblotError, flag, one_line, printable
from unblot.nn import NETWORKS
from unblot.system.files import checksum

NAMED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)(,.*)?", re.DOTALL)
_imported: set[str] = set()  # modules that a person has named


def import_networks(module: str) -> None:
    """Imports a module whose networks may be used from then on, from the working directory or where it is installed.

    Raises UnblotError where it cannot be imported.
    """
    try:
        with _working_directory():
            importlib.import_module(module)
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise UnblotError(
            f"the module {module!r} cannot be imported ({reason}); give the name of one in this folder or installed"
        ) from None
    _imported.add(module)


def import_named(spec: Any) -> None:
    """Imports the module that the spec of a network names, as a person has given it; nothing for other networks."""
    module = module_of(spec) if isinstance(spec, str) else None
    if module is not None:
        import_networks(module)


def module_of(spec: str) -> str | None:
    """The module that the spec of a network names; None for a network of unblot's."""
    found = NAMED.fullmatch(spec)
    return None if found is None or found[1] in NETWORKS else found[1]


def networks_for(spec: str) -> Mapping[str, Callable[..., nn.Module]]:
    """The table that the spec of a network is read with: NETWORKS, or one of the own network alone.

    Raises UnblotError for an own network whose module no person has named, or which is no network.
    """
    found = NAMED.fullmatch(spec)
    if found is None or found[1] in NETWORKS:
        return NETWORKS
    module, name = found[1], found[2]
    if module not in _imported:
        raise UnblotError(
            f"the network {printable(spec)[:100]!r} is code of the module {module!r}, which is imported only if asked:"
            f" unblot {flag('import')} {module} … at the command line, unblot.import_networks({module!r}) in Python"
        )
    network: Any = getattr(sys.modules[module], name, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise UnblotError(
            f"the module {module!r} has no network {name!r}; name a class in it that is a torch.nn.Module"
        )
    return {f"{module}:{name}": network}


def version_of(spec: str) -> str:
    """The version of an own network's code: of its package where it is installed, else a hash of its file; "" for
    unblot's."""
    module = module_of(spec)
    if module is None:
        return ""
    networks_for(spec)
    top = module.partition(".")[0]
    for package in importlib.metadata.packages_distributions().get(top, ()):
        return f"{package} {importlib.metadata.version(package)}"
    file = getattr(sys.modules[module], "__file__", None)
    return f"sha256 {checksum(Path(file))}" if file and os.path.isfile(file) else "unknown"


@contextmanager
def _working_directory() -> Iterator[None]:
    """Within it modules of the working directory can be imported, after all others."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
