"""What goes in comes out: picture files with the type, range, channels and provenance; grids one can look at."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_files import tiff_of
from unblot.data import output, values
from unblot.data.dataset import open_data
from unblot.data.values import ValueMap

RNG = np.random.default_rng(13)
ABOUT = {"seed": 3, "solver": "dpmpp", "prompt": "größer\n猫"}


def stored_like(kind: str) -> np.ndarray:
    """Pictures (2, C, 6, 9) of a kind."""
    dtype, channels = kind.split()
    shape = (2, int(channels), 6, 9)
    if dtype == "bool":
        return RNG.random(shape) > 0.5
    return (RNG.random(shape) * (250 if dtype in ("uint8", "int8") else 3000) - 100 * (dtype[0] in "if")).astype(dtype)


SUFFIX = {
    **{f"uint8 {c}": ".png" for c in (1, 3)},
    "uint16 1": ".png",
    **{f"uint8 {c}": ".tif" for c in (2, 4, 5, 7)},
    **{f"uint16 {c}": ".tif" for c in (2, 3, 4, 5)},
    **{f"{d} {c}": ".tif" for d in ("int16", "uint32", "float16", "float32", "float64") for c in (1, 3, 7)},
    "int64 2": ".npy",
    "bool 1": ".png",
}


@pytest.mark.parametrize("kind", SUFFIX)
def test_a_saved_picture_is_read_again_with_its_values_type_and_channels(kind, tmp_path):
    stored = stored_like(kind)
    fitted = values.fit(stored)
    (tmp_path / "set").mkdir()
    paths = [output.save_picture(tmp_path / "set" / f"{i}", picture, fitted, ABOUT) for i, picture in enumerate(stored)]
    assert {p.suffix for p in paths} == {SUFFIX[kind]}
    assert sorted((tmp_path / "set").iterdir()) == paths  # nothing else is left behind
    if SUFFIX[kind] == ".npy":
        found = np.stack([np.load(p) for p in paths])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = open_data(str(tmp_path / "set"), pages="channels").pictures
    wanted = stored.astype(np.uint8) * 255 if stored.dtype == bool else stored
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("channels", [2, 4])
def test_opacity_is_saved_as_such(channels, tmp_path):
    stored = RNG.integers(0, 256, (channels, 6, 9), np.uint8)
    path = output.save_picture(tmp_path / "x", stored, values.fit(stored[None], alpha=True), ABOUT)
    assert Image.open(path).mode == {2: "LA", 4: "RGBA"}[channels]
    data = open_data(str(tmp_path))
    assert data.values.alpha
    np.testing.assert_array_equal(data.pictures[0], stored)


def test_provenance_stands_in_the_file(tmp_path):
    png = output.save_picture(tmp_path / "a", stored_like("uint8 3")[0], values.fit(stored_like("uint8 3")), ABOUT)
    assert json.loads(Image.open(png).text["unblot"]) == ABOUT
    deep = output.save_picture(tmp_path / "b", stored_like("float32 5")[0], values.fit(stored_like("float32 5")), ABOUT)
    with tifffile.TiffFile(deep) as tif:
        assert json.loads(tif.pages[0].description)["unblot"] == ABOUT


def test_five_float_channels_come_back_in_their_units(tmp_path):
    """The way of a picture through the package, with the network left out."""
    array = RNG.uniform(-40, 312, (40, 5, 12, 10)).astype(np.float32)
    array[:, 1] = 0
    array[3, 2, 4] = 0
    np.save(tmp_path / "x.npy", array)
    data = open_data(str(tmp_path / "x.npy"))
    back = data.values.decode(data.values.encode(data.pictures))
    np.testing.assert_array_max_ulp(back, array, maxulp=1)
    x, _ = data.batch(data.train)
    assert 0.3 < float(x.std()) < 0.7
    path = output.save_picture(tmp_path / "out", back[3], data.values, {})
    np.testing.assert_array_equal(tifffile.imread(path), back[3])


def test_sixteen_bit_gray_tiff_files_come_back_as_such(tmp_path):
    deep = RNG.integers(200, 4096, (30, 12, 10), np.uint16)
    (tmp_path / "set").mkdir()
    for i, picture in enumerate(deep):
        (tmp_path / "set" / f"{i:02}.tif").write_bytes(tiff_of(picture))
    data = open_data(str(tmp_path / "set"))
    assert data.pictures.dtype == np.uint16
    x, _ = data.batch(np.arange(30))
    assert (float(x.min()), float(x.max())) == (-1, 1)
    back = data.values.decode(data.values.encode(data.pictures))
    np.testing.assert_array_equal(back[:, 0], deep)
    path = output.save_picture(tmp_path / "out", back[0], data.values, {})
    assert path.suffix == ".png"
    again = Image.open(path)
    assert again.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(again), deep[0])


def test_what_is_shown_is_eight_bits_of_three_channels():
    for kind in SUFFIX:
        stored = stored_like(kind)
        shown = output.as_display(stored, values.fit(stored))
        assert (shown.shape, shown.dtype) == ((2, 6, 9, 3), np.uint8)
        if kind == "uint8 3":
            np.testing.assert_array_equal(shown, stored.transpose(0, 2, 3, 1))
        if kind == "uint8 4":
            np.testing.assert_array_equal(shown, stored[:, :3].transpose(0, 2, 3, 1))


def test_what_is_transparent_shows_the_ground():
    clear = np.zeros((1, 4, 16, 16), np.uint8)
    shown = output.as_display(clear, values.fit(clear, alpha=True))
    assert set(np.unique(shown)) == {208, 255}
    clear[:, 3] = 255
    assert not output.as_display(clear, values.fit(clear, alpha=True)).any()


def test_a_grid_enlarges_tiny_pictures_by_whole_pixels():
    stored = RNG.integers(0, 256, (5, 1, 8, 8), np.uint8)
    picture = output.grid(stored, values.fit(stored), columns=3)
    assert picture.size == (3 * (64 + 2) + 2, 2 * (64 + 2) + 2)
    pixels = np.asarray(picture)[2 : 2 + 64, 2 : 2 + 64, 0]
    np.testing.assert_array_equal(pixels, np.kron(stored[0, 0], np.ones((8, 8), np.uint8)))
    assert output.grid(stored[:1], values.fit(stored), scale=1).size == (12, 12)
    assert output.grid(stored[:, :, :1], values.fit(stored)).size[0] > 64


@pytest.mark.parametrize(
    ("count", "shape", "columns"), [(64, (96, 128), 8), (60, (64, 64), 10), (7, (64, 64), 3), (2, (64, 64), 2)]
)
def test_a_sheet_is_wide_rather_than_high_and_full_where_it_can_be(count, shape, columns):
    height, width = shape
    stored = np.zeros((count, 3, height, width), np.uint8)
    rows = -(-count // columns)
    sheet = output.grid(stored, values.fit(stored), scale=1)
    assert sheet.size == (columns * (width + 2) + 2, rows * (height + 2) + 2)


def test_a_plot_of_points_has_them_where_they_are():
    picture = np.asarray(output.scatter(np.array([[0.5, 0.5], [np.nan, 1]]), size=100, extent=1.0)).astype(int)
    dark = np.argwhere(picture.sum(axis=2) < 600)
    np.testing.assert_allclose(dark.mean(axis=0), [25, 75], atol=1.5)  # rows go down, y goes up
    assert output.scatter(np.zeros((0, 2, 1, 1))).size == (512, 512)


def test_a_picture_file_is_whole_or_not_there(tmp_path, monkeypatch):
    stored = RNG.integers(0, 256, (1, 6, 9), np.uint8)
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: (path.write_text("half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        output.save_picture(tmp_path / "x", stored, ValueMap("uint8", (127.5,), (127.5,)), {})
    assert not list(tmp_path.iterdir())
