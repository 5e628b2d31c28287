"""Augmentation: what is done is what is told, from the generator alone."""

import numpy as np
import pytest
import torch

from unblot.data.augment import AUGMENTATIONS, _rotation, _warp
from unblot.errors import UnblotError
from unblot.specs import build

EVERYTHING = {
    "none": "none",
    "plain": "plain:flip=true,flip_vertical=true,shift=2",
    "non_leaking": "non_leaking:probability=0.5",
}


def of(spec: str):
    return build(AUGMENTATIONS, spec, "augmentation")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(n: int = 4, side: int = 32) -> torch.Tensor:
    """Pictures (n, 2, side, side) whose detail is far above a pixel."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    phase = torch.arange(n)[:, None, None]
    return torch.stack([torch.sin(3 * x + phase) * torch.cos(2 * y), torch.sin(2 * x * y + phase)], 1)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 16), (7, 6, 10), (4, 9, 1)])
def test_every_augmentation_keeps_the_shape_and_draws_from_its_generator_alone(name, shape):
    augmentation = of(EVERYTHING[name])
    x = torch.randn(16, *shape, generator=seeded(9))
    before = x.clone()
    state = torch.get_rng_state()
    y, conditions = augmentation.apply(x, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    assert (y.shape, y.dtype, conditions.dtype) == (x.shape, x.dtype, x.dtype)
    assert conditions.shape == (16, augmentation.conditions)
    assert y.isfinite().all()
    again, told = augmentation.apply(x, seeded(3))
    assert torch.equal(again, y)
    assert torch.equal(told, conditions)
    if name != "none":
        assert not torch.equal(augmentation.apply(x, seeded(4))[0], y)


def test_what_is_told_to_be_untouched_is():
    x = torch.randn(4000, 1, 6, 8, generator=seeded(1))
    y, conditions = of("non_leaking").apply(x, seeded(2))
    untouched = (conditions == 0).all(dim=1)
    assert torch.equal(y[untouched], x[untouched])
    assert all(not torch.equal(a, b) for a, b in zip(y[~untouched], x[~untouched]))
    mirrored = (conditions[:, 0] == 1) & (conditions[:, 1:] == 0).all(dim=1)
    assert torch.equal(y[mirrored], x[mirrored].flip(-1))


def test_each_thing_is_done_as_often_as_asked_and_conditions_are_in_standard_deviations():
    n = 40000
    _, c = of("non_leaking:probability=0.3").apply(torch.zeros(n, 1, 1, 2), seeded(5))
    shares = [(c[:, 0] != 0), (c[:, 1] != 0), (c[:, 2] != 0), (c[:, 4] != 0), (c[:, 5] != 0), (c[:, 7] != 0)]
    for share, wanted in zip(shares, [0.5, 0.3, 0.3, 0.3, 0.3, 0.3]):
        assert abs(float(share.float().mean()) - wanted) < 5 * (wanted * (1 - wanted) / n) ** 0.5
    for column in (2, 7, 8):
        assert abs(float(c[c[:, column] != 0, column].std()) - 1) < 0.03
    length = c[:, 5:7].square().sum(dim=1)
    assert abs(float(length[length > 0].mean()) - 1) < 0.05
    turned = c[:, 3:5][c[:, 4] != 0]
    assert torch.allclose((turned[:, 0] + 1).square() + turned[:, 1].square(), torch.ones(len(turned)), atol=1e-5)


@pytest.mark.parametrize(
    ("option", "columns"),
    [("flip", [0]), ("flip_vertical", [1]), ("scale", [2]), ("rotate", [3, 4]), ("stretch", [5, 6]), ("shift", [7, 8])],
)
def test_what_is_switched_off_is_not_done(option, columns):
    off = "0" if option in ("scale", "stretch", "shift") else "false"
    _, c = of(f"non_leaking:probability=1,{option}={off}").apply(torch.zeros(50, 1, 4, 4), seeded())
    others = [i for i in range(9) if i not in columns]
    assert not c[:, columns].any()
    assert all(c[:, i].any() for i in others)


def test_plain_augmentation_is_uniform_over_its_group():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    y, _ = of("plain:flip=true,quarter=true").apply(x.expand(8000, 1, 3, 3), seeded(7))
    seen, counts = np.unique(y.reshape(len(y), 9).numpy(), axis=0, return_counts=True)
    orbit = [t for k in range(4) for t in (x.rot90(k, (2, 3)), x.flip(-1).rot90(k, (2, 3)))]
    assert {tuple(row) for row in seen} == {tuple(t.flatten().tolist()) for t in orbit}
    assert abs(counts - 1000).max() < 5 * 30


def test_a_shift_moves_by_whole_pixels_and_repeats_the_edge():
    x = torch.randn(1, 2, 5, 7, generator=seeded(2)).expand(300, 2, 5, 7)
    y, _ = of("plain:shift=1").apply(x, seeded(8))
    padded = torch.nn.functional.pad(x[:1], (1, 1, 1, 1), mode="replicate")
    views = [padded[:, :, a : a + 5, b : b + 7] for a in range(3) for b in range(3)]
    hits = torch.stack([(y == view).flatten(1).all(dim=1) for view in views])
    assert hits.any(dim=0).all()
    assert hits.any(dim=1).all()


def test_a_warp_moves_turns_and_scales_as_told():
    x = smooth()
    eye, still = torch.eye(2, dtype=torch.float64).expand(4, 2, 2), torch.zeros(4, 2, dtype=torch.float64)
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    torch.testing.assert_close(_warp(x, eye, still)[inner], x[inner], atol=4e-3, rtol=0)
    moved = _warp(x, eye, still + torch.tensor([3.0, -2.0]))
    torch.testing.assert_close(moved[inner], x.roll((-2, 3), (2, 3))[inner], atol=4e-3, rtol=0)
    quarter = _warp(x, _rotation(torch.full((4,), torch.pi / 2, dtype=torch.float64)), still)
    torch.testing.assert_close(quarter[inner], x.rot90(-1, (2, 3))[inner], atol=4e-3, rtol=0)
    large = _warp(x, 2 * eye, still)
    wanted = torch.nn.functional.interpolate(x[:, :, 8:24, 8:24], scale_factor=2, mode="bicubic")
    torch.testing.assert_close(large[inner], wanted[inner], atol=1e-2, rtol=0)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UnblotError, match="quarter turns need square pictures"):
        of("plain:quarter=true").apply(torch.zeros(2, 1, 4, 6), seeded())
    for spec, reason in (("plain:shift=-1", "is negative"), ("non_leaking:probability=1.5", "out of range")):
        with pytest.raises(UnblotError, match=reason):
            of(spec)
