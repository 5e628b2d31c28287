"""The held-out pictures: a fixed share by content, copies together, the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_files import encoded, scenes
from unblot.data import copies
from unblot.data.dataset import open_data
from unblot.data.split import AT_LEAST, AT_MOST, digest, split
from unblot.data.values import fit
from unblot.errors import UnblotError


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.sampled_from([0, 0.01, 0.05, 0.3]))
@settings(max_examples=100, deadline=None)
def test_every_picture_is_on_one_side_and_copies_together(digests, share):
    digests = np.array(digests, np.int64)
    train, held_out = split(digests, share)
    assert sorted([*train, *held_out]) == list(range(len(digests)))
    assert not set(digests[train]) & set(digests[held_out])
    assert len(train) > 0
    if share == 0:
        assert len(held_out) == 0


@pytest.mark.parametrize(
    ("count", "wanted"), [(60000, 3000), (10000, 500), (600, AT_LEAST), (100, 20), (10, 2), (1, 0)]
)
def test_the_share_is_five_in_a_hundred_but_at_least_a_few_dozen_of_what_is_not_tiny(count, wanted):
    digests = np.random.default_rng(count).permutation(10**6)[:count] + 1
    assert len(split(digests, 0.05)[1]) == wanted
    assert wanted >= min(AT_LEAST, int(AT_MOST * count))


def test_order_has_no_influence_and_more_pictures_move_few():
    rng = np.random.default_rng(2)
    digests = rng.integers(1, 2**62, 5000)
    held_out = set(digests[split(digests, 0.05)[1]])
    assert set(rng.permutation(digests)[split(digests, 0.05)[1]]) != held_out  # indices alone say nothing
    shuffled = rng.permutation(digests)
    assert set(shuffled[split(shuffled, 0.05)[1]]) == held_out
    more = np.append(digests, rng.integers(1, 2**62, 500))
    assert len(held_out & set(more[split(more, 0.05)[1]])) > 0.85 * len(held_out)


def test_a_digest_is_of_the_values():
    a = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    b = a.copy()
    b[2, 1, 1] += 1
    assert digest(a) == digest(np.asfortranarray(a)) > 0
    assert digest(a) != digest(b)


def test_copies_of_a_picture_in_a_data_set_are_on_one_side(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (300, 6, 6), np.uint8)
    np.save(tmp_path / "x.npy", np.concatenate([pictures, pictures[:150], pictures[:50]]))
    data = open_data(str(tmp_path / "x.npy"), held_out=0.1)
    sides = [{data.pictures[i].tobytes() for i in part} for part in (data.train, data.held_out)]
    assert not sides[0] & sides[1]
    assert 45 <= len(data.held_out) <= 55
    assert len(open_data(str(tmp_path / "x.npy"), held_out=0).held_out) == 0


def test_recompressed_and_rescaled_copies_are_on_one_side_too(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    for i, picture in enumerate(scenes(200)):
        (folder / f"{i:03}.png").write_bytes(encoded(picture, "PNG"))
        (folder / f"{i:03} again.jpg").write_bytes(encoded(picture, "JPEG", quality=60))
        (folder / f"{i:03} larger.png").write_bytes(encoded(Image.fromarray(picture).resize((48, 48)), "PNG"))
    data = open_data(str(folder), held_out=0.2)
    sides = [{data.cached.names[i][:3] for i in part} for part in (data.train, data.held_out)]
    assert 110 <= len(data.held_out) <= 130
    assert len(sides[0] & sides[1]) <= 2
    again = open_data(str(folder), held_out=0.2)
    np.testing.assert_array_equal(again.held_out, data.held_out)
    monkeypatch.setattr(copies, "FAMILIES", 10)
    other = open_data(str(folder), held_out=0.2, cache=tmp_path / "other")
    np.testing.assert_array_equal(other.cached.families, other.cached.digests)


@pytest.mark.parametrize("kind", ["few", "copies", "enough"])
def test_a_split_that_copies_leave_nothing_for_is_said(kind, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (60, 6, 6), np.uint8)
    np.save(tmp_path / "x.npy", {"few": pictures[:4], "copies": pictures[:1].repeat(60, 0), "enough": pictures}[kind])
    said = []
    data = open_data(str(tmp_path / "x.npy"), report=said.append)
    assert any("no picture is held out, as all are copies" in line for line in said) == (kind == "copies")
    assert (len(data.held_out) == 0) == (kind != "enough")
    said.clear()
    open_data(str(tmp_path / "x.npy"), held_out=0, report=said.append)
    assert not any("held out" in line for line in said)


def test_pictures_of_one_scene_are_one_family_without_all_pairs(monkeypatch):
    scene = scenes(1)[0].transpose(2, 0, 1)
    few = np.random.default_rng(3).integers(-1, 2, (600, 1, 1, 1))
    pictures = np.clip(scene + few, 0, 255).astype(np.uint8)
    found = copies.thumbnails(pictures, fit(pictures), np.arange(600))
    told, was = [], copies.Groups.join
    monkeypatch.setattr(copies.Groups, "join", lambda *args: told.append(len(args[2])) or was(*args))
    assert copies.near_copies(found) == [list(range(600))]
    assert sum(told) < 600


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_shares_that_make_no_sense_are_refused(share):
    with pytest.raises(UnblotError, match="held-out share"):
        open_data("digits", held_out=share)
