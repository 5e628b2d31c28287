"""Runs the notebooks of the documentation, each in an empty folder, and keeps in them what their cells show.

`make notebooks` runs all of them; names of notebooks after `python docs/run_notebooks.py` run those alone. A cell that
fails ends it.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent / "notebooks"
SECONDS = 1200  # for one cell, on a busy machine


def run(path: Path) -> None:
    """Runs a notebook from top to bottom in a folder of its own, and writes it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=SECONDS, resources=place, record_timing=False).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)  # PIL shows a picture twice; PNG is exact
    notebook.metadata.pop("language_info", None)  # the version of Python that happened to run it
    nbformat.write(notebook, path)


if __name__ == "__main__":
    chosen = [NOTEBOOKS / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in chosen:
        print(path.name, flush=True)
        run(path)
