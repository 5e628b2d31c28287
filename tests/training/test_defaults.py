"""What a budget adds to the choices of a run."""

import numpy as np
import pytest

from unblot.data.dataset import open_data
from unblot.training.defaults import add_defaults


def blobs(count: int, lit: bool = False) -> np.ndarray:
    """Soft spots anywhere (N, 1, 12, 16), without an up or a left; or lit from above and from the left."""
    rng = np.random.default_rng(0)
    y, x = np.arange(12)[None, :, None], np.arange(16)[None, None, :]
    found = np.zeros((count, 12, 16))
    for _ in range(3):
        at = rng.uniform(0, 1, (2, count, 1, 1))
        found += np.exp(-((y - 11 * at[0]) ** 2 + (x - 15 * at[1]) ** 2) / 6)
    shade = np.linspace(1.5, 0.1, 12)[:, None] * np.linspace(1.5, 0.1, 16) if lit else 1
    return (found * shade)[:, None].astype(np.float32)


def added(x: np.ndarray, tmp_path, captions: bool = False, budget: float | None = 600.0, **choices):
    np.savez(tmp_path / "set.npz", x=x, **({"captions": np.array(["a spot"] * len(x))} if captions else {}))
    said: list[str] = []
    add_defaults(open_data(str(tmp_path / "set.npz")), choices, budget, said.append)
    return choices, said


def test_few_pictures_without_an_up_or_a_left_are_mirrored_and_the_run_says_so(tmp_path):
    choices, said = added(blobs(300), tmp_path)
    assert choices == {"augment": "plain:flip=true,flip_vertical=true"}
    (line,) = said
    assert "mirrored left to right" in line
    assert "augment='none'" in line


@pytest.mark.parametrize(
    "case",
    [
        {"x": blobs(300, lit=True)},
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
