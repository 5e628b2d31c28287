"""Captions: from every place that people write them to, and what is said of the odd ones."""

from pathlib import Path

import pytest

from small_sets import packed, png, write
from unblot.data.dataset import Dataset, open_data


def texts(folder: Path, **files: str | bytes) -> None:
    """Writes files `a_txt` as a.txt."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())


def opened(path: Path, **choices: object) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    return open_data(str(path), report=said.append, **choices), said  # type: ignore[arg-type]


def test_text_files_beside_pictures_are_captions_one_a_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png", "c.png", "d.v2.png")
    texts(folder, a_txt="a red fox\r\n\n  in  the snow ", b_caption="雪里的狐狸 🦊", b_txt="fox", d_v2_txt="\ufeffd")
    texts(folder, README_txt="no caption")
    data, said = opened(folder)
    assert data.captions == (("a red fox", "in the snow"), ("雪里的狐狸 🦊", "fox"), (), ("d",))
    assert "3 pictures with captions from .txt files and .caption files" in said
    assert "1 picture without a caption: c.png" in said
    assert "1 text file beside no picture left out: README.txt" in said
    again, said_again = opened(folder)
    assert (again.captions, said_again) == (data.captions, said)


def test_captions_are_in_the_fingerprint_only_where_they_are_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png")
    plain, said = opened(folder)
    assert (plain.captions, said) == (None, [])
    texts(folder, a_txt="a fox")
    with_captions, _ = opened(folder)
    without, said = opened(folder, captions=False)
    assert (without.captions, said, without.fingerprint) == (None, [], plain.fingerprint)
    texts(folder, a_txt="an owl")
    assert len({plain.fingerprint, with_captions.fingerprint, opened(folder)[0].fingerprint}) == 3


def test_text_files_of_no_picture_stay_what_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png")
    texts(folder, README_txt="read me", labels_txt="cat")
    data, said = opened(folder)
    assert (data.captions, said) == (None, ["other files left out: .txt (2)"])


def test_captions_and_classes(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "ant/1.png", "bee/1.png", "bee/2.png", "stray.png")
    texts(folder / "ant", **{"1_txt": "small"})
    texts(folder / "bee", **{"2_txt": "striped"})
    texts(folder, stray_txt="left out with its picture")
    data, said = opened(folder)
    assert data.classes == ("ant", "bee")
    assert data.captions == (("small",), (), ("striped",))
    assert not any("beside no picture" in note for note in said)
    assert opened(folder, labels=False)[0].captions == (("left out with its picture",), ("small",), (), ("striped",))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_captions_in_archives(suffix: str, tmp_path: Path) -> None:
    members = {"x/1.left.png": png(1), "x/1.txt": b"one", "x/2.png": png(2), "x/2.txt": b"two"}
    data, _ = opened(packed(tmp_path / f"set{suffix}", members))
    assert data.captions == (("one",) if suffix == ".tar" else (), ("two",))


def test_odd_captions_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", *(f"{name}.png" for name in "abcdefghi"))
    texts(folder, a_txt="caf\xe9 noir".encode("latin-1"), b_txt="", c_txt=" \n", d_txt="red\x1b[2J fox\0es")
    texts(folder, e_txt="0 0.5 0.5 0.1 0.2\n1 .5 0.5 0.1 0.2\n", f_txt=png(), g_txt="word " * 10_000)
    texts(folder, h_txt="x" * (2**20 + 1), i_txt="fuchs".encode("utf-16"))
    data, said = opened(folder)
    assert data.captions is not None
    assert [len(t) for t in data.captions] == [1, 0, 0, 1, 0, 0, 1, 0, 1]
    assert data.captions[0] + data.captions[3] + data.captions[8] == ("café noir", "red [2J fox es", "fuchs")
    assert data.captions[6] == (" ".join(["word"] * 10_000),)
    for note in (
        "1 caption file neither UTF-8 nor UTF-16, read as Windows-1252: a.txt",
        "2 caption files without a word: b.txt, c.txt",
        "1 caption file with control characters, read as spaces: d.txt",
        "1 caption file of numbers (boxes of objects, perhaps), not read: e.txt",
        "1 caption file without text, not read: f.txt",
        "1 caption file longer than 1,048,576 bytes, not read: h.txt",
        "5 pictures without a caption: b.png, c.png, e.png, f.png, h.png",
    ):
        assert note in said
