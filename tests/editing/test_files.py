"""Working on pictures from the command line: what is known stays to the last bit, what is wrong is one line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn.datasets import load_digits

import unblot
from helpers import TINY, refused
from unblot.cli.parser import main
from unblot.config.edits import EDITS
from unblot.data.values import ValueMap
from unblot.editing import images as edit
from unblot.editing.files import edit_files
from unblot.editing.inputs import InputImage, gray_weights, to_spec, transparent_pixels, unknown_pixels
from unblot.editing.result import result_stems
from unblot.errors import UnblotError

FAST = ["--steps", "2"]
SMALL = {"network": TINY[1], "steps": 2, "batch_size": 8, "preview_every": 0, "quiet": True}
SEVENS = np.round(load_digits().images[2] * 15.9375).astype(np.uint8)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "digits", **SMALL)


def trained_on(array, folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pictures.npy", array)
    return unblot.train(str(folder / "pictures.npy"), out=folder / "run", **SMALL)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Runs of other channels and types, and a picture for each."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("kinds")
    arrays = {
        "16-bit": rng.integers(100, 60_000, (64, 8, 8, 1), np.uint16),
        "colorize": rng.integers(0, 256, (64, 8, 8, 3), np.uint8),
        "seven floats": rng.normal(300, 20, (64, 8, 8, 7)).astype(np.float32),
        "three floats": rng.normal(0.5, 0.2, (64, 8, 8, 3)).astype(np.float32),
    }
    runs = {name: trained_on(array, folder / name.replace(" ", "-")) for name, array in arrays.items()}
    return {name: (runs[name], arrays[name][:1].transpose(0, 3, 1, 2)) for name in arrays}


@pytest.fixture
def files(tmp_path):
    """A picture, its mask (the right half anew), and pictures that are not of the run's form."""
    Image.fromarray(SEVENS).save(tmp_path / "a.png")
    half = np.zeros((8, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    Image.fromarray(np.stack([SEVENS, SEVENS, SEVENS, 255 - half], axis=-1)).save(tmp_path / "holes.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((9, 5), np.uint8)).save(tmp_path / "other.png")
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "colour.png")
    tifffile.imwrite(tmp_path / "seven.tif", np.zeros((7, 8, 8), np.uint8), planarconfig="separate")
    return tmp_path


def made(path):
    return np.asarray(Image.open(path))


# --- what is known stays


def test_inpainting_keeps_the_known_half_and_says_where_each_file_comes_from(digits, files, capsys):
    out, mask = files / "out", files / "mask.png"
    flags = ["--mask", mask, "-n", "3", "--out", out, "--label", "7", "--seed", "5"]
    assert main([str(a) for a in ["edit", "inpaint", digits.path, files / "a.png", *flags, *FAST]]) == 0
    assert str(out / "grid.png") in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["a-1.png", "a-2.png", "a-3.png", "grid.png", "manifest.json"]
    for draw in (1, 2, 3):
        assert np.array_equal(made(out / f"a-{draw}.png")[:, :4], SEVENS[:, :4])
    assert not np.array_equal(made(out / "a-1.png"), made(out / "a-2.png"))
    about = json.loads(Image.open(out / "a-3.png").text["unblot"])
    expected = {"edit": "inpaint", "run": "digits", "seed": 5, "index": 2, "label": "7", "steps": 2, "guidance": 1.5}
    assert expected.items() <= about.items()
    assert about["picture"].endswith("a.png")
    assert about["solver"].startswith("ddpm")
    assert about["spacing"].startswith("karras")
    assert Image.open(out / "grid.png").width == 5 * 66 + 2  # the picture, the mask, three results


def test_without_a_mask_transparent_pixels_are_inpainted(digits, files):
    out = files / "out"
    assert main(["edit", "inpaint", str(digits.path), str(files / "holes.png"), "--out", str(out), *FAST]) == 0
    for draw in (1, 2, 3, 4):
        assert np.array_equal(made(out / f"holes-{draw}.png")[:, :4], SEVENS[:, :4])


@pytest.mark.parametrize("kind", ["16-bit", "colorize", "seven floats", "three floats"])
def test_any_channels_and_types_keep_the_known_pixels_bit_for_bit(kinds, kind, tmp_path):
    run, pictures = kinds[kind]
    unknown = np.random.default_rng(1).random((1, 1, 8, 8)) < 0.5
    edited = edit.inpaint(run, pictures, unknown, n=2, steps=2)
    assert edited.array.dtype == pictures.dtype
    keep = np.broadcast_to(~unknown[:, None], edited.array.shape)
    original = np.broadcast_to(pictures[:, None], edited.array.shape)
    assert edited.array[keep].tobytes() == original[keep].tobytes()
    assert (edited.array[~keep] != original[~keep]).mean() > 0.9
    larger = edit.outpaint(run, pictures, left=3, top=5, n=2, steps=2)
    assert larger.array.shape == (1, 2, pictures.shape[1], 13, 11)
    assert larger.array[:, :, :, 5:, 3:].tobytes() == original.tobytes()
    larger.save(tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("kind", ["16-bit", "three floats"])
def test_hidden_pixels_change_nothing(kinds, kind):
    run, pictures = kinds[kind]
    unknown = np.random.default_rng(1).random((1, 1, 8, 8)) < 0.5
    others = np.where(unknown, pictures.max() - pictures, pictures)
    results = [edit.inpaint(run, given, unknown, n=2, steps=2).array for given in (pictures, others)]
    assert results[0].tobytes() == results[1].tobytes()


def test_files_of_any_kind_go_in_and_come_out(kinds, tmp_path):
    run, pictures = kinds["seven floats"]
    np.save(tmp_path / "a.npy", pictures[0])
    np.save(tmp_path / "b.npy", pictures[0].transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "c.tif", pictures[0], planarconfig="separate", photometric="minisblack")
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:6] = True
    np.save(tmp_path / "mask.npy", mask)
    names = [tmp_path / name for name in ("a.npy", "b.npy", "c.tif")]
    edited = edit_files(run, "inpaint", names, mask=tmp_path / "mask.npy", n=1, steps=2)
    assert np.array_equal(edited.array[:, 0][..., ~mask], np.repeat(pictures, 3, axis=0)[..., ~mask])
    out = edited.save(tmp_path / "out")
    assert np.array_equal(tifffile.imread(out / "b-1.tif"), edited.array[1, 0])


def test_enlarging_and_colouring_agree_with_what_was_given(kinds):
    """Floats are not clipped, so that means and brightness come back to rounding."""
    run, pictures = kinds["three floats"]
    small = pictures.reshape(1, 3, 4, 2, 4, 2).mean(axis=(3, 5))
    large = edit.upscale(run, small, n=2, steps=2).array[0]
    assert np.allclose(large.reshape(2, 3, 4, 2, 4, 2).mean(axis=(3, 5)), small, atol=1e-4)
    gray = np.tensordot(gray_weights(3), pictures, (0, 1))[:, None]
    coloured = edit.colorize(run, gray, n=2, steps=2).array[0]
    assert np.allclose(np.tensordot(gray_weights(3), coloured, (0, 1)), gray[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["16-bit", "colorize"])
def test_what_is_stored_agrees_with_what_was_given_though_values_have_limits(kinds, kind):
    """After no training many values would leave the type's range; the mean of rounded values is off by half a step."""
    run, pictures = kinds[kind]
    extremes = np.where(pictures > pictures.mean(), pictures.max(), pictures.min())
    small = extremes.reshape(1, -1, 4, 2, 4, 2).mean(axis=(3, 5)).round().astype(pictures.dtype)
    large = edit.upscale(run, small, n=2, steps=2).array[0].astype(float)
    step = 0.5 + 1e-4 * float(np.ptp(pictures))
    assert np.abs(large.reshape(2, -1, 4, 2, 4, 2).mean(axis=(3, 5)) - small).max() <= step
    if kind == "colorize":
        gray = np.tensordot(gray_weights(3), extremes, (0, 1))[:, None].round().astype(np.uint8)
        coloured = edit.colorize(run, gray, n=2, steps=2).array[0].astype(float)
        assert np.abs(np.tensordot(gray_weights(3), coloured, (0, 1)) - gray[0]).max() <= step


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["inpaint", "outpaint", "img2img", "variations"])
def test_a_result_is_the_same_in_any_batch(digits, kind, batch_size):
    pictures = load_digits().images[:3, None].astype(np.uint8) * 15
    own = {"inpaint": {"unknown": pictures[:1] > 60}, "outpaint": {"right": 5}}.get(kind, {})
    work = getattr(edit, kind)
    together = work(digits, pictures, **own, n=2, steps=2, seed=3).array.astype(int)
    apart = work(digits, pictures, **own, n=2, steps=2, seed=3, batch_size=batch_size).array.astype(int)
    assert np.abs(together - apart).max() <= 1


def test_blending_gives_what_is_between_and_reconstruction_says_what_was_lost(digits, files, capsys):
    for name in ("a", "b"):
        Image.fromarray(SEVENS).save(files / f"{name}.png")
    ends = [str(files / "a.png"), str(files / "b.png")]
    assert (
        main(["edit", "interpolate", str(digits.path), *ends, "-n", "3", "--out", str(files / "interpolate"), *FAST])
        == 0
    )
    assert len(list((files / "interpolate").glob("*-?.png"))) == 3
    assert main(["edit", "reconstruct", str(digits.path), *ends, "--out", str(files / "again")]) == 0
    expected = capsys.readouterr().out
    assert expected.count("root mean square error") == 2
    back = made(files / "again" / "a-1.png").astype(float) - SEVENS
    assert f"{np.sqrt((back**2).mean()):.3g}" in expected


def test_fit_brings_other_sizes_and_colours_and_masks_with_them(digits, files):
    out = files / "out"
    Image.fromarray(np.full((9, 5), 255, np.uint8)).save(files / "mask9x5.png")
    flags = ["--mask", str(files / "mask9x5.png"), "--fit", "stretch", "--out", str(out), *FAST]
    assert main(["edit", "inpaint", str(digits.path), str(files / "other.png"), *flags]) == 0
    assert made(out / "other-1.png").shape == (8, 8)
    flags = ["--fit", "crop", "--out", str(files / "out2"), *FAST]
    assert main(["edit", "img2img", str(digits.path), str(files / "colour.png"), *flags]) == 0


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(16, 24), (40, 23), (5, 7), (8, 6)])
def test_no_hidden_pixel_is_in_a_known_one_whatever_the_fit(fit, size):
    rng, hidden, values = np.random.default_rng(0), np.zeros(size, bool), ValueMap("uint8", (0.0,) * 3, (1.0,) * 3)
    hidden[size[0] // 2, size[1] // 2] = True  # one pixel, which is less than half of one after the fit
    pictures = [rng.integers(0, 256, (3, *size), np.uint8) for _ in range(2)]
    pictures[1] = np.where(hidden, 255 - pictures[0], pictures[0])
    given = [InputImage("a", x, False) for x in pictures]
    unknown = unknown_pixels(InputImage("mask", hidden[None] * np.uint8(255), False), given[0], (3, 8, 8), fit)
    a, b = (to_spec(x, values, (3, 8, 8), fit) for x in given)
    assert np.array_equal(a[:, ~unknown[0]], b[:, ~unknown[0]])
    assert 1 <= unknown.sum() < 64
    clear = InputImage("a", np.concatenate([pictures[0], 255 - 2 * hidden[None].astype(np.uint8)]), True)
    assert np.array_equal(transparent_pixels(clear, (3, 8, 8), fit), unknown)


def test_a_mask_that_the_fit_cuts_away_is_refused():
    hidden = np.zeros((8, 32), np.uint8)
    hidden[:, 0] = 255
    picture, mask = InputImage("a", np.zeros((1, 8, 32), np.uint8), False), InputImage("m", hidden[None], False)
    with pytest.raises(UnblotError, match="the mask m has no white left, for fit='crop' cuts it away: give fit='pad'"):
        unknown_pixels(mask, picture, (1, 8, 8), "crop")
    holes = InputImage("b", np.stack([hidden, 255 - hidden]), True)
    with pytest.raises(UnblotError, match="b has no transparent pixels left"):
        transparent_pixels(holes, (1, 8, 8), "crop")


def test_the_brightness_of_a_picture_in_colour_is_the_same_in_any_depth(kinds, tmp_path):
    run, pictures = kinds["colorize"]
    for name, array in (("a.npy", pictures[0]), ("b.npy", pictures[0].astype(np.uint16) * 257)):
        np.save(tmp_path / name, array)
    a, b = (edit_files(run, "colorize", [tmp_path / name], n=1, steps=2) for name in ("a.npy", "b.npy"))
    for one, other in ((a.before[0], b.before[0]), (a.array, b.array)):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_upscaling_takes_pictures_that_fit_brings_to_the_runs_colours_and_of_one_size_alone(digits, tmp_path):
    for name, side in (("a.png", 4), ("b.png", 4), ("c.png", 2)):
        Image.fromarray(np.full((side, side, 3), (90, 60, 30), np.uint8)).save(tmp_path / name)
    a, b, c = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    with pytest.raises(UnblotError, match="convert it with fit='crop'"):
        edit_files(digits, "upscale", [a], n=1, steps=2)
    assert edit_files(digits, "upscale", [a, b], fit="crop", n=1, steps=2).array.shape == (2, 1, 1, 8, 8)
    with pytest.raises(UnblotError, match=r"c.png is 2x2, .*a.png 4x4: give pictures of one size"):
        edit_files(digits, "upscale", [a, c], fit="crop", n=1, steps=2)


def test_holes_are_filled_by_a_run_that_knows_opacity(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 4), np.uint8)).save(tmp_path / "data" / f"{i}.png")
    run = unblot.train(tmp_path / "data", out=tmp_path / "run", colour="rgba", **SMALL)
    picture = np.concatenate([rng.integers(0, 256, (8, 8, 3), np.uint8), np.full((8, 8, 1), 255, np.uint8)], -1)
    picture[:, 4:, 3] = 0
    Image.fromarray(picture).save(tmp_path / "holes.png")
    edited = edit_files(run, "inpaint", [tmp_path / "holes.png"], n=2, steps=2)
    known = picture[:, :4].transpose(2, 0, 1)
    assert np.array_equal(edited.array[0, :, :, :, :4], np.stack([known, known]))


def test_a_tilde_is_the_users_folder(digits, files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    edited = edit_files(digits, "inpaint", ["~/a.png"], mask="~/mask.png", n=1, steps=2)
    assert edited.save("~/out") == files / "out"
    assert (files / "out" / "grid.png").exists()


def test_the_files_of_an_edit_say_which_average_made_them(digits):
    edited = edit.img2img(digits, SEVENS[None, None], n=1, steps=2)
    assert edited.about["ema"] == digits.sample(1, steps=1).provenance["ema"]


# --- what is refused


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["inpaint", "a.png", "--mask", "other.png"], "other.png is 9x5, the picture"),
        (["inpaint", "a.png", "--mask", "black.png"], "paint white what to inpaint"),
        (["inpaint", "a.png", "--mask", "none.png"], "No such file"),
        (["inpaint", "a.png"], "give --mask"),
        (["inpaint", "a.png", "--mask", "mask.png", "--steps", "0"], "--steps must be from 1 to 10000, not 0"),
        (["inpaint", "a.png", "--mask", "mask.png", "-n", "0"], "-n must be at least 1, not 0"),
        (["inpaint", "a.png", "--mask", "mask.png", "--label", "10"], "no class '10'; this run knows 0, 1"),
        (["inpaint", "a.png", "--mask", "mask.png", "--label", "-1"], "no class '-1'"),
        (["inpaint", "a.png", "--mask", "mask.png", "--guidance", "2"], "give one with --label"),
        (["inpaint", "a.png", "--mask", "mask.png", "--solver", "magic"], "choose one of ddpm"),
        (["img2img", "colour.png"], "8x8 with 3 channels of uint8; this run's pictures are 8x8 with 1 channel"),
        (["img2img", "other.png"], "convert it with --fit crop, pad or stretch"),
        (["img2img", "seven.tif", "--fit", "crop"], "7 channels"),
        (["img2img", "a.png", "--fit", "fold"], "choose one of crop, pad, stretch"),
        (["img2img", "a.png", "--strength", "0"], "strength"),
        (["img2img", "a.png", "--strength", "1.5"], "strength"),
        (["variations", "a.png", "--amount", "2"], "--amount"),
        (["variations", "a.png", "--solver", "ddpm"], "deterministic solver"),
        (["reconstruct", "a.png", "--steps", "1"], "inversion needs --steps 2 or more"),
        (["interpolate", "a.png"], "PICTURES"),
        (["outpaint", "a.png"], "needs 1 to 10000 pixels on some side"),
        (["outpaint", "a.png", "--left", "-2"], "none below 0, not --left -2"),
        (["upscale", "a.png"], "--factor 2"),
        (["upscale", "a.png", "--factor", "3"], "--factor 3 must be 2 or more and divide 8x8"),
        (["upscale", "other.png"], "no whole factor"),
        (["colorize", "a.png"], "trained on colour"),
        (["paint", "a.png"], "invalid choice: 'paint'"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(digits, files, capsys, argv, expected):
    kind, *rest = argv
    rest = [files / a if a.endswith((".png", ".tif")) else a for a in rest]
    assert expected in refused(capsys, "edit", kind, digits.path, *rest, "--out", files / "out")
    assert not (files / "out").exists()


def test_nothing_is_overwritten_without_being_asked(digits, files, capsys):
    assert "--overwrite" in refused(capsys, "edit", "img2img", digits.path, files / "a.png", "--out", files)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x/cat.png", "y/dog.png"], ["cat-1", "cat-2", "dog-1", "dog-2"]),
        (["x/a.png", "1-a.png", "y/a.png"], ["1-a-1", "1-a-2", "2-1-a-1", "2-1-a-2", "3-a-1", "3-a-2"]),
        (["x/Cat.png", "y/cat.png"], ["1-Cat-1", "1-Cat-2", "2-cat-1", "2-cat-2"]),  # one file on some systems
        (["cat.png", "cat-1.png"], ["cat-1", "cat-2", "cat-1-1", "cat-1-2"]),
    ],
)
def test_no_result_has_the_name_of_another(names, expected):
    assert result_stems(names, len(names), 2) == expected
    assert len({stem.casefold() for stem in expected}) == len(expected)


def test_points_are_no_pictures(tmp_path, files, capsys):
    run = unblot.train("moons", out=tmp_path / "m", network="mlp:width=16,depth=1", steps=2, batch_size=8, quiet=True)
    assert "needs pictures" in refused(capsys, "edit", "img2img", run.path, files / "a.png", "--out", tmp_path / "o")


@pytest.mark.parametrize("kind", EDITS)
def test_every_kind_explains_itself(kind, capsys):
    with pytest.raises(SystemExit):
        main(["edit", kind, "--help"])
    assert f"unblot edit {kind} RUN" in capsys.readouterr().out


def test_pictures_that_are_not_finite_are_refused_before_sampling(kinds):
    run, pictures = kinds["three floats"]
    holes = pictures.copy()
    holes[0, 0, 2, 3] = np.nan
    with pytest.raises(UnblotError, match=f"1 of {holes.size} values to edit are NaN"):
        edit.inpaint(run, holes, np.isnan(holes).any(axis=1, keepdims=True), steps=2)
    with pytest.raises(UnblotError, match="values to edit are NaN"):
        edit.colorize(run, holes[:, :1], steps=2)


def test_the_page_names_the_samplers_that_edits_take(kinds, monkeypatch):
    (run, one), given = kinds["colorize"], {}
    masked, small, two = np.ones((1, 1, 8, 8), bool), one[:, :, :4, :4], np.concatenate([one, one])
    arguments = {"inpaint": (one, masked), "upscale": (small,), "colorize": (one[:, :1],), "interpolate": (two,)}

    def seen(run, kind, pictures, work, choices, *args, **more):
        given[kind] = choices
        raise StopIteration

    monkeypatch.setattr(edit, "_edited", seen)
    for kind in EDITS:
        with pytest.raises(StopIteration):
            getattr(edit, kind)(run, *arguments.get(kind, (one,)), **({"left": 1} if kind == "outpaint" else {}))
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| (.*) \| (.*) \| (\d+|of the run) \| (.*) \|$", page, re.MULTILINE)
    told = {kind: [cell.strip("`") for cell in cells] for names, *cells in rows for kind in re.findall(r"\w+", names)}
    for kind, choices in given.items():
        asked = [str(choices.get(name, "of the run")) for name in ("solver", "spacing", "steps")]
        guidance = "1" if choices.get("guidance") == 1 else "2 with a prompt, 1.5 with a label"
        assert [*asked, guidance] == told[kind], kind


def test_a_mask_of_several_channels_and_several_reconstructions_are_refused(kinds, digits):
    run, pictures = kinds["colorize"]
    with pytest.raises(UnblotError, match=r"a mask of shape \(1, 3, 8, 8\) does not fit .*; give \(1, 1, 8, 8\)"):
        edit.inpaint(run, pictures, np.zeros((1, 3, 8, 8), bool), steps=2)
    with pytest.raises(UnblotError, match="one reconstruction; leave out n=4"):
        edit.reconstruct(digits, SEVENS[None, None], n=4)
