"""What a training step is made of: every picture once a pass, levels spread evenly, all a function of the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import unblot
from unblot.data.dataset import open_data
from unblot.errors import UnblotError
from unblot.process.randomness import chunk_generator, stratified_uniform
from unblot.training.batches import BOTH, CAPTION, COUPLINGS, LABEL, RNG_CHUNK, BatchMaker, BatchSampler


def batch_sampler(**changes):
    choices = {"seed": 3, "batch_size": 40, "count": 100, "shape": (1, 2, 2), "label_dropout": 0.1}
    return BatchSampler(**{**choices, "times": "stratified", **changes})


@settings(max_examples=25, deadline=None)
@given(batch_size=st.integers(1, 70), count=st.integers(1, 90))
def test_every_picture_comes_once_in_every_pass(batch_size, count):
    d = batch_sampler(batch_size=batch_size, count=count)
    steps = -(-3 * count // batch_size)
    seen = torch.cat([d.at(step).pictures for step in range(steps)])
    for epoch in seen[: 3 * count].split(count):
        assert sorted(epoch.tolist()) == list(range(count))


def test_a_step_does_not_depend_on_the_steps_asked_for_before():
    d = batch_sampler()
    there = [d.at(step) for step in range(6)]
    fresh = batch_sampler()
    for step in (5, 0, 3):
        again = fresh.at(step)
        assert torch.equal(again.pictures, there[step].pictures)
        assert torch.equal(again.eps, there[step].eps)
        assert torch.equal(again.t, there[step].t)
        assert torch.equal(again.hidden, there[step].hidden)


def test_a_chunk_does_not_depend_on_the_rest_of_the_batch():
    small, large = batch_sampler(batch_size=RNG_CHUNK), batch_sampler(batch_size=3 * RNG_CHUNK)
    assert torch.equal(small.at(7).eps, large.at(7).eps[:RNG_CHUNK])


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_out_without_gap_or_overlap(world):
    d = batch_sampler(batch_size=40)
    whole = d.at(5)
    shares = [d.at(5, rank, world) for rank in range(world)]
    assert sorted(torch.cat([s.pictures for s in shares]).tolist()) == sorted(whole.pictures.tolist())
    for share in shares:
        for picture, eps in zip(share.pictures, share.eps, strict=True):
            assert torch.equal(eps, whole.eps[whole.pictures == picture][0])


def test_more_processes_than_chunks_are_refused():
    with pytest.raises(UnblotError, match="batch_size=64 or more"):
        batch_sampler(batch_size=40).at(0, rank=3, world=4)


def test_stratified_times_fall_one_into_each_part():
    d = batch_sampler(batch_size=40)
    assert sorted((d.at(0).t * 40).long().tolist()) == list(range(40))


def test_index_times_are_uniform_over_ddpms_thousand():
    index = batch_sampler(times="index", batch_size=2000).at(0).t * 1000
    assert torch.equal(index, index.round())
    assert index.min() >= 1
    assert index.max() <= 1000
    assert stats.kstest((index.numpy() - 1) / 1000, "uniform").pvalue > 0.01


def test_noise_is_normal_and_labels_are_hidden_as_often_as_asked():
    d = batch_sampler(batch_size=5000, label_dropout=0.25)
    draw = d.at(0)
    assert stats.kstest(draw.eps.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.binomtest(int(draw.hidden.sum()), 5000, 0.25).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.15, 0.25, 0.5, 0.9, 1.0])
def test_some_pictures_keep_label_and_caption_alone_and_some_both_however_often_they_are_hidden(share):
    draw = batch_sampler(batch_size=6000, label_dropout=share).at(0)
    alone = min(share, (1 - share) / 3)
    found = [float((~draw.hidden & (draw.kept == what)).float().mean()) for what in (CAPTION, LABEL, BOTH)]
    assert found == pytest.approx([alone, alone, 1 - share - 2 * alone], abs=0.02)


def test_what_is_hidden_up_to_a_quarter_is_hidden_as_often_alone():
    g = chunk_generator(3, 0, 0)
    stratified_uniform(RNG_CHUNK, RNG_CHUNK, 0, g), torch.randn(RNG_CHUNK, 1, 2, 2, generator=g)
    u = torch.rand(RNG_CHUNK, generator=g)
    for share in (0.05, 0.1, 0.15, 0.2, 0.25):
        kept = batch_sampler(batch_size=RNG_CHUNK, label_dropout=share).at(0).kept
        assert torch.equal(kept, torch.bucketize(u, torch.tensor([2 * share, 3 * share]), right=True))


def hidden_shares(texts, tmp_path):
    """Shares of labels and of captions that are hidden, of pictures with a caption and of those without."""
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x=pictures, y=labels, captions=np.array(texts))
    config = unblot.plan(tmp_path / "x.npz", batch_size=4000, label_dropout=0.2, clusters=0, quiet=True)
    dataset = open_data(str(tmp_path / "x.npz"))
    maker = BatchMaker(config, dataset, "none")
    order = dataset.train[maker.sampler.at(0).pictures.numpy()]
    batch = maker.at(0)
    captioned = torch.tensor([dataset.captions[i] != () for i in order])
    unlabelled, silent = batch.label == 2, (batch.tokens == maker.tokenizer([""])).all(1)
    return [float(gone[of].float().mean()) for of in (captioned, ~captioned) for gone in (unlabelled, silent)]


def test_labels_of_pictures_without_a_caption_are_hidden_as_often_as_asked(tmp_path):
    some = hidden_shares(["a fox", "an owl", ""] * 20, tmp_path)
    assert some == pytest.approx([0.4, 0.4, 0.2, 1.0], abs=0.04)
    whole = hidden_shares(["a fox", "an owl", "a bee"] * 20, tmp_path)
    assert whole[:2] == pytest.approx([0.4, 0.4], abs=0.04)


def test_assigned_noise_is_the_same_noise_nearer_by_and_stays_in_its_chunk():
    draw = batch_sampler(batch_size=40, shape=(1, 4, 4)).at(0)
    x0 = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    eps = COUPLINGS["ot"]()(x0, draw.eps)
    for before, after, pictures in zip(
        draw.eps.split(RNG_CHUNK), eps.split(RNG_CHUNK), x0.split(RNG_CHUNK), strict=True
    ):
        rows = [row.flatten().tolist() for row in before]
        assert sorted(rows) == sorted(row.flatten().tolist() for row in after)
        least = min(((pictures - before.roll(k, 0)) ** 2).sum() for k in range(len(before)))
        assert ((pictures - after) ** 2).sum() < least
    assert torch.equal(COUPLINGS["ot"]()(x0[16:32], draw.eps[16:32]), eps[16:32])
    assert torch.equal(COUPLINGS["independent"]()(x0, draw.eps), draw.eps)
