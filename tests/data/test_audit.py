"""The doctor: what is there, what is wrong, copies of every kind, and what would ruin a training."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data_files import encoded, scenes
from small_sets import blobs
from unblot import api
from unblot.data import copies, values
from unblot.data.audit import audit as doctor
from unblot.data.audit import turning
from unblot.data.dataset import open_data
from unblot.errors import UnblotError
from unblot.reports import audit as doctor_page

RNG = np.random.default_rng(17)


def again(picture: Image.Image, kind: str, **options: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(picture, kind, **options)))


COPIES = {
    "exact": lambda p: p,
    "quality 60": lambda p: again(p, "JPEG", quality=60),
    "webp": lambda p: again(p, "WEBP", quality=70),
    "to a half": lambda p: p.resize((16, 16)).resize((32, 32)),
    "to three quarters": lambda p: p.resize((24, 24)).resize((32, 32)),
    "larger": lambda p: p.resize((80, 80)).resize((32, 32)),
}


@pytest.fixture(scope="module")
def found():
    """600 scenes, then 60 copies of the first 60 of each kind of COPIES, then 60 mirrored; their thumbnails."""
    plain = scenes(600)
    kinds = {**COPIES, "mirrored": ImageOps.mirror, "upside down": ImageOps.flip}
    copied = [np.stack([np.asarray(make(Image.fromarray(p))) for p in plain[:60]]) for make in kinds.values()]
    pictures = np.concatenate([plain, *copied]).transpose(0, 3, 1, 2)
    return {kind: 600 + 60 * i for i, kind in enumerate(kinds)}, pictures


def thumbs(pictures: np.ndarray) -> copies.Thumbnails:
    return copies.thumbnails(pictures, values.fit(pictures), np.arange(len(pictures)))


@pytest.mark.parametrize("kind", COPIES)
def test_near_copies_of_every_kind_are_found_and_nothing_else(found, kind):
    starts, pictures = found
    rows = np.r_[:600, starts[kind] : starts[kind] + 60]
    groups = copies.near_copies(thumbs(pictures[rows]))
    hits = sum({i, 600 + i} <= set(group) for group in groups for i in range(60))
    assert hits >= 58
    assert sum(not any(i >= 600 for i in group) for group in groups) <= 2


@pytest.mark.parametrize("kind", ["mirrored", "upside down"])
def test_mirrored_copies_are_found_when_asked(found, kind):
    starts, pictures = found
    rows = np.r_[:600, starts[kind] : starts[kind] + 60]
    table = thumbs(pictures[rows])
    assert sum({i, 600 + i} <= set(group) for group in copies.near_copies(table, flipped=True) for i in range(60)) == 60
    assert len(copies.near_copies(table)) <= 2


def test_a_set_in_which_everything_is_there_twice_does_not_hide_it(found):
    starts, pictures = found
    rows = np.r_[:60, starts["quality 60"] : starts["quality 60"] + 60]
    assert len(copies.near_copies(thumbs(pictures[rows]))) >= 58


def test_recoloured_pictures_are_no_copies():
    pictures = scenes(40)
    other = np.clip(pictures.astype(int) + np.array([60, -60, 0]), 0, 255).astype(np.uint8)
    assert copies.near_copies(thumbs(np.concatenate([pictures, other]).transpose(0, 3, 1, 2))) == []


def test_exact_copies_are_groups_of_equal_digests():
    assert copies.exact_copies(np.array([5, 3, 5, 9, 3, 5, 1])) == [[0, 2, 5], [1, 4]]
    assert copies.exact_copies(np.array([4, 2, 9])) == []


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_are_the_connected_components(count, pairs):
    pairs = [(a % count, b % count) for a, b in pairs]
    reached = np.eye(count, dtype=bool)
    for a, b in pairs:
        reached[a, b] = reached[b, a] = True
    for _ in range(count):
        reached = reached @ reached
    wanted = {tuple(np.flatnonzero(row)) for row in reached if row.sum() > 1}
    groups = copies.Groups(count)
    for a, b in pairs:
        groups.join(a, np.array([b]))
    assert {tuple(group) for group in groups.found()} == wanted
    assert all(len(set(groups.of[group].tolist())) == 1 for group in groups.found())


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_figures_do_not_depend_on_how_much_is_held_in_memory(dtype, tmp_path, monkeypatch):
    pictures = (RNG.random((30, 3, 8, 9)) * 200).astype(dtype)
    pictures[[4, 9]] = 7
    np.save(tmp_path / "x.npy", pictures)
    data = open_data(str(tmp_path / "x.npy"))
    found = doctor._values(data), doctor._glance(data)
    sizes, encode = [], values.ValueMap.encode
    monkeypatch.setattr(values.ValueMap, "encode", lambda self, x, *how: sizes.append(x.size) or encode(self, x, *how))
    monkeypatch.setattr(values, "CHUNK_VALUES", 3 * 8 * 9 * 7)
    assert (doctor._values(data), doctor._glance(data)) == found
    assert max(sizes) == 3 * 8 * 9 * 7
    (first, *_), flat = found[0]
    assert flat == [4, 9]
    assert first["mean"] == pytest.approx(pictures[:, 0].mean(), rel=1e-5)
    assert first["deviation"] == pytest.approx(pictures[:, 0].std(), rel=1e-5)
    distinct, _, constant, deviation = found[1]
    assert (distinct, constant) == (29, 2 / 30)
    assert deviation == pytest.approx(data.batch(np.arange(30))[0].numpy().std(), rel=1e-4)


def worth_of(x: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    return turning.worth(torch.from_numpy(x), torch.from_numpy(np.zeros(len(x), int) if labels is None else labels))


def test_turned_pictures_are_worth_new_ones_where_there_is_no_up_or_left() -> None:
    assert all(worth == pytest.approx(1, abs=0.2) for worth in worth_of(blobs(900)).values())


def test_turned_digits_are_worth_nothing() -> None:
    assert all(worth < 0.2 for worth in turning.worth_of_turns(open_data("digits")).values())


@pytest.mark.parametrize("told", [False, True])
def test_the_worth_of_turns_is_the_same_where_pictures_are_sorted_by_class(told) -> None:
    data = open_data("digits")
    order = np.argsort(data.labels, kind="stable")
    x, labels = data.batch(np.arange(len(data)))[0].numpy()[order], data.labels[order] * told
    assert all(worth < 0.2 for worth in worth_of(x[::2], labels[::2]).values())


def test_pictures_lit_from_above_are_mirrored_and_not_turned() -> None:
    lit = blobs(500) * np.linspace(1.5, 0.1, 12, dtype=np.float32)[None, None, :, None]
    found = worth_of(lit)
    assert found["flip"] > 0.8
    assert found["flip_vertical"] < 0.6
    assert found["quarter"] < 0.6


def test_a_turn_that_makes_one_class_of_another_is_harmful_with_labels_alone() -> None:
    labels = np.arange(400) % 2
    upper = blobs(400) * (np.arange(12) < 6)[None, None, :, None]
    x = np.where(labels[:, None, None, None] == 1, upper, upper[:, :, ::-1]).astype(np.float32)
    assert worth_of(x)["flip_vertical"] > 0.8
    assert worth_of(x, labels)["flip_vertical"] < 0.1
    assert worth_of(x, labels)["flip"] > 0.8


def test_only_square_pictures_are_turned_by_a_quarter(tmp_path) -> None:
    np.save(tmp_path / "wide.npy", blobs(60, width=24))
    assert list(turning.worth_of_turns(open_data(str(tmp_path / "wide.npy")))) == ["flip", "flip_vertical"]


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """A folder with something of everything, examined."""
    folder = tmp_path_factory.mktemp("set") / "my set"
    pictures = scenes(130)
    for i, picture in enumerate(pictures):
        place = folder / ("big" if i < 100 else "small")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:03}.png").write_bytes(encoded(picture, "PNG"))
    (folder / "big" / "copy.bmp").write_bytes(encoded(pictures[3], "BMP"))
    (folder / "big" / "near.jpg").write_bytes(encoded(pictures[4], "JPEG", quality=60))
    (folder / "big" / "turned.png").write_bytes(encoded(pictures[5][:, ::-1], "PNG"))
    (folder / "small" / "flat\n.png").write_bytes(encoded(np.full((40, 40), 9, np.uint8), "PNG"))
    (folder / "small" / "<b>.png").write_bytes(b"no")
    data = open_data(str(folder), on_broken="skip", cache=folder.parent / "cache")
    return data, doctor.audit_dataset(data, flipped=True, seconds=lambda data: 7200)


def test_an_examination_tells_what_is_there_and_what_is_wrong(examined):
    _, found = examined
    assert (found.count, found.distinct, found.shape) == (134, 133, (3, 32, 32))
    assert found.classes == {"big": 103, "small": 31}
    assert found.kinds == {"8-bit RGB": 133, "8-bit gray": 1}
    assert found.sizes == {"32x32": 133, "40x40": 1}
    assert found.exact == (("big/003.png", "big/copy.bmp"),)
    assert found.near == (("big/004.png", "big/near.jpg"),)
    assert found.flipped == (("big/005.png", "big/turned.png"),)
    assert found.constant == ("small/flat\\n.png",)
    assert [name for name, _ in found.broken] == ["small/<b>.png"]
    assert found.seconds == 7200
    advice = " ".join(found.advice)
    for part in ("on_broken='skip'", "133 distinct", "1 exact, 1 near", "Class small", "2.0 hours", "size="):
        assert part in advice, part


def test_its_values_are_those_of_the_pictures(examined):
    data, found = examined
    for channel, told in enumerate(found.channels):
        stored = np.asarray(data.pictures[:, channel], np.float64)
        wanted = {"low": stored.min(), "high": stored.max(), "mean": stored.mean(), "deviation": stored.std()}
        assert told == pytest.approx(wanted)


def test_it_is_json_text_and_a_page(examined):
    data, found = examined
    again = json.loads(json.dumps(found.to_dict()))
    assert again["exact"] == [["big/003.png", "big/copy.bmp"]]
    text = doctor_page.text(found)
    assert all(len(line) < 250 for line in text.splitlines())
    page = doctor_page.page(found, data)
    assert "<b>.png" in text
    assert "<b>.png" not in page
    assert "&lt;b&gt;.png" in page
    for part in ("big/near.jpg", "flat\\n", "134 pictures", "data:image/png;base64"):
        assert part in page, part
    assert "://" not in page


@pytest.mark.parametrize("spec", ["digits", "moons:count=500", "one", "deep"])
def test_anything_can_be_examined(spec, tmp_path):
    if spec in ("one", "deep"):
        shape = (1, 1, 9, 7) if spec == "one" else (20, 5, 1, 30)
        np.save(tmp_path / "x.npy", (RNG.random(shape) * 1e4).astype("uint16" if spec == "one" else "float64"))
        spec = str(tmp_path / "x.npy")
    data = open_data(spec)
    found = doctor.audit_dataset(data, flipped=True)
    assert found.advice
    assert doctor_page.page(found, data).startswith("<!doctype html>")
    assert doctor_page.text(found)


def test_parts_that_were_not_asked_for_are_not_there(examined):
    data, _ = examined
    found = doctor.audit_dataset(data, near=False)
    assert (found.near, found.flipped, found.seconds) == (None, None, None)
    assert found.exact


def test_examining_does_not_look_for_clusters(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("clusters change nothing of what is told")

    monkeypatch.setattr("sklearn.cluster.KMeans", refuse)
    found, data = api.audit("digits", unlabelled=True, near=False, quiet=True)
    assert data.labels is None
    assert found.seconds


def test_the_quick_part_stops_on_what_would_ruin_a_training(tmp_path):
    for name, array, told in (
        ("same", np.repeat(RNG.integers(0, 255, (1, 8, 8), np.uint8), 50, axis=0), "all 50 pictures are the same"),
        ("empty", np.zeros((1, 8, 8), np.uint8), "every picture is empty"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(UnblotError, match=told):
            doctor.quick_check(open_data(str(tmp_path / f"{name}.npy")))


def test_constant_pictures_can_be_audited(tmp_path):
    for name, array, told in (
        ("same", np.full((20, 8, 8), 7, np.uint8), "Nothing can be learnt: all 20 pictures are the same"),
        ("one", np.full((1, 8, 8), 7, np.uint8), "Nothing can be learnt: every picture is empty"),
        ("float", np.full((20, 8, 8), 0.5, np.float32), "Nothing can be learnt: all 20 pictures are the same"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        found, data = api.audit(str(tmp_path / f"{name}.npy"), quiet=True)
        assert found.advice[0].startswith(told)
        assert found.seconds is None
        assert doctor_page.text(found)
        assert doctor_page.page(found, data)


def test_the_quick_part_warns(tmp_path):
    assert doctor.quick_check(open_data("moons")) == []
    assert doctor.quick_check(open_data("digits")) == []
    pictures = RNG.integers(0, 255, (300, 8, 8), np.uint8)
    pictures[:40] = pictures[0]
    pictures[100:140] = np.arange(40)[:, None, None]
    np.savez(tmp_path / "x.npz", images=pictures, labels=np.arange(300) // 290)
    told = " ".join(doctor.quick_check(open_data(str(tmp_path / "x.npz"))))
    for part in ("(261)", "39 of 300", "13%", "Class 1"):
        assert part in told, (part, told)
