"""Whatever people have goes in at the command line, is trained on, and comes out as it went in."""

import numpy as np
import tifffile
from PIL import Image

from data_files import hostile, tiff_of
from unblot.cli.parser import main

RNG = np.random.default_rng(31)
TINY = ["--network", "unet:width=16,multipliers=1,blocks=1,attention=", "--steps", "2", "--batch-size", "8"]


def drawn(data, out, *flags):
    """The files of two pictures drawn by a model that was barely trained on this data."""
    assert main(["train", str(data), "--out", str(out), "--quiet", *TINY, *flags]) == 0
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--out", str(out / "new")]) == 0
    return sorted(p for p in (out / "new").iterdir() if p.stem.isdigit())


def test_a_hostile_folder_trains_when_broken_files_are_skipped_and_names_them(tmp_path, capsys):
    folder = tmp_path / "hostile"
    folder.mkdir()
    _, bad = hostile(folder)
    assert (
        main(["train", str(folder), "--out", str(tmp_path / "run"), *TINY, "--size", "16", "--on-broken", "skip"]) == 0
    )
    told = "".join(capsys.readouterr())
    assert "Traceback" not in told
    for name in bad:
        assert f"{name}: ".replace("\n", "\\n") in told, name
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_by_default_it_stops_before_training(tmp_path, capsys):
    folder = tmp_path / "hostile"
    folder.mkdir()
    _, bad = hostile(folder)
    assert main(["train", str(folder), "--out", str(tmp_path / "run"), *TINY]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    for name in bad:
        assert f"{name}: ".replace("\n", "\\n") in told, name
    assert not (tmp_path / "run").exists()


def test_five_float_channels_come_out_as_such(tmp_path):
    array = RNG.uniform(-40, 312, (60, 5, 8, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    files = drawn(tmp_path / "x.npy", tmp_path / "run")
    for file in files:
        found = tifffile.imread(file)
        assert (found.shape, found.dtype) == ((5, 8, 6), np.float32)
        assert -400 < found.min() < found.max() < 700
        assert 20 < found.mean() < 250  # in the units of the data: its mean is 136


def test_sixteen_bit_gray_tiff_files_come_out_as_sixteen_bit_gray(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(60):
        (tmp_path / "set" / f"{i}.tif").write_bytes(tiff_of(RNG.integers(300, 4000, (8, 8), np.uint16)))
    for file in drawn(tmp_path / "set", tmp_path / "run"):
        picture = Image.open(file)
        assert picture.mode == "I;16"
        assert 500 < np.asarray(picture).mean() < 3800
