"""What a budget adds to the choices of a run."""

import numpy as np
import pytest

from small_sets import blobs
from unblot.cli.parser import main
from unblot.data.dataset import open_data
from unblot.training.defaults import add_defaults


def lit(x: np.ndarray) -> np.ndarray:
    """The pictures lit from above and from the left."""
    shade = np.linspace(1.5, 0.1, x.shape[2])[:, None] * np.linspace(1.5, 0.1, x.shape[3])
    return (x * shade).astype(np.float32)


def added(x: np.ndarray, tmp_path, captions: bool = False, budget: float | None = 600.0, **choices):
    np.savez(tmp_path / "set.npz", x=x, **({"captions": np.array(["a spot"] * len(x))} if captions else {}))
    said: list[str] = []
    add_defaults(open_data(str(tmp_path / "set.npz")), choices, budget, said.append)
    return choices, said


def test_few_pictures_without_an_up_or_a_left_are_mirrored_and_the_run_says_so(tmp_path):
    choices, said = added(blobs(300, width=16), tmp_path)
    assert choices == {"augment": "plain:flip=true,flip_vertical=true"}
    (line,) = said
    assert "mirrored left to right" in line
    assert "augment='none'" in line


def test_a_dry_run_says_what_decided_the_augmentation(tmp_path, capsys):
    np.savez(tmp_path / "set.npz", x=blobs(300, width=16))
    reasons = []
    for given in ([], ["--augment", "plain:flip=true"], ["--augment", "none"]):
        main(["train", str(tmp_path / "set.npz"), "--budget", "10m", "--dry-run", *given])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--augment ")]
        reasons.append(line.rpartition("  ")[2])
    assert reasons == ["(the budget, the number of pictures, and what turned ones are worth)", "(given)", "(given)"]


@pytest.mark.parametrize(
    "case",
    [
        {"x": lit(blobs(300, width=16))},
        {"x": blobs(90)},
        {"x": blobs(1000)},
        {"x": blobs(300), "captions": True},
        {"x": blobs(300), "budget": 599.0},
        {"x": blobs(300), "budget": None},
        {"x": blobs(300), "preset": "ddpm"},
        {"x": blobs(300), "augment": "none"},
    ],
    ids=["lit", "too few to tell", "many", "captions", "short", "no budget", "preset", "given"],
)
def test_others_are_not(tmp_path, case):
    choices, said = added(**case, tmp_path=tmp_path)
    assert choices.get("augment") in (None, "none")
    assert not said
