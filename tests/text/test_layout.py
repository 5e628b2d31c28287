"""The layout of a text is the mean of its pictures, in squares: it has a loss of its own, and the network sees it."""

import pytest
import torch
import torch.nn.functional as F

import unblot
from helpers import TINY_RUN, captioned_folder, shaken
from unblot.data.readers.shapes import captions, render, scenes
from unblot.denoiser import Condition
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.text.encoder import TextEncoder
from unblot.text.layout import WEIGHT, Layout, layout_for, layout_loss
from unblot.text.tokenizer import PAD, learn

TOLD = "transformer:width=32,depth=1,layout=4"


def laid_out(encoder: TextEncoder, layout: Layout, texts: list[str]) -> torch.Tensor:
    tokens = encoder.read(texts)
    return layout(encoder(tokens), (tokens != PAD)[:, None, None])


def test_its_loss_is_least_for_the_mean_of_the_squares():
    x0 = torch.randn(64, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    squares = F.avg_pool2d(x0, 4)
    layout = squares.mean(0, keepdim=True).requires_grad_()
    layout_loss(layout, x0, 0.5).mean().backward()
    assert float(layout.grad.abs().max()) < 1e-6
    assert layout_loss(squares, x0, 0.5).tolist() == [0] * 64
    torch.testing.assert_close(layout_loss(squares + 1, x0, 0.5), torch.full((64,), WEIGHT * 4))


def test_which_of_two_things_is_on_the_left_is_learned_within_seconds():
    torch.manual_seed(0)
    pairs = [s for s in scenes(0, 3000) if s.relation in ("left", "right") and not s.alike]
    texts = [captions(scene)[0] for scene in pairs]
    x0 = torch.stack([torch.from_numpy(render(scene, 8)).float() / 127.5 - 1 for scene in pairs])
    encoder = TextEncoder(learn([(text,) for text in texts]), width=32, depth=1, kernel=3)
    layout = layout_for(32, 2, (3, 8, 8))
    tokens = encoder.read(texts)
    learned = [*encoder.parameters(), *layout.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    for step in range(200):
        rows = torch.randint(len(texts), (64,), generator=torch.Generator().manual_seed(step))
        made = layout(encoder(tokens[rows]), (tokens[rows] != PAD)[:, None, None])
        layout_loss(made, x0[rows], 0.5).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    white_left, white_right = (
        laid_out(encoder, layout, [f"a large white circle to the {side} of a large black square"]).mean((0, 1, 2))
        for side in ("left", "right")
    )
    assert white_left[0] > white_left[1] + 0.1
    assert white_right[1] > white_right[0] + 0.1


@pytest.mark.parametrize(("shape", "squares"), [((3, 32, 32), (8, 8)), ((4, 96, 128), (6, 8)), ((1, 2, 100), (1, 8))])
def test_squares_are_as_many_along_the_longer_side_as_are_asked_for(shape, squares):
    assert layout_for(32, 8, shape).size == squares


def test_there_are_no_more_squares_than_pixels_and_none_where_none_are_asked_for():
    assert layout_for(32, 8, (3, 5, 4)).size == (5, 4)
    assert layout_for(32, 0, (3, 32, 32)) is None
    with pytest.raises(UnblotError, match="layout must be from 0 to 64"):
        TextEncoder(learn([("a",)] * 9), layout=65)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of pictures of 8x6 pixels, half of them dark, that has learned nothing yet but sees its layout."""
    folder = captioned_folder(tmp_path_factory.mktemp("data"), (8, 6), ("a bright one", "a dark one"))
    out = tmp_path_factory.mktemp("runs") / "run"
    return shaken(unblot.train(folder, out=out, quiet=True, text_encoder=TOLD, **TINY_RUN))


def test_a_network_sees_the_layout_and_that_of_no_text_where_there_is_none(run):
    denoiser = run.denoiser
    assert denoiser.added_channels == 3
    x, level = torch.randn(2, 3, 8, 6), NoiseLevel(torch.tensor(0.6), torch.tensor(0.8))
    with torch.no_grad():
        known = denoiser.encoded(denoiser.condition(captions=["a dark one", ""]))
        assert known.layout.shape == (2, 3, 4, 3)
        seen = denoiser(x, level, known).x0
        assert torch.equal(seen, denoiser(x, level, denoiser.condition(captions=["a dark one", ""])).x0)
        other = denoiser(x, level, known._replace(layout=known.layout + 1)).x0
        none = denoiser(x, level, Condition()).x0
    assert float((seen - other).abs().max()) > 1e-3
    torch.testing.assert_close(none[1], seen[1])
    assert float((none[0] - seen[0]).abs().max()) > 1e-3


def test_a_larger_picture_sees_the_same_layout_larger(run):
    x, level = torch.randn(1, 3, 16, 12), NoiseLevel(torch.tensor(0.6), torch.tensor(0.8))
    assert run.denoiser(x, level, run.denoiser.condition(captions=["a dark one"])).x0.shape == x.shape
