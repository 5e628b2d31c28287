"""Captions: from every place that people write them to, and what is said of the odd ones."""

import json
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import packed, png, shuffled, write
from unblot.data.dataset import Dataset, open_data
from unblot.data.readers import tables
from unblot.data.readers.captions import clean
from unblot.data.readers.listing import Listing, hidden
from unblot.data.readers.sources import open_source
from unblot.data.readers.walking import suffix_of
from unblot.errors import printable


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


@pytest.mark.parametrize("table", ["captions.csv", "x/captions.csv"])
def test_a_table_in_a_shard_speaks_of_that_shard_alone(table: str, tmp_path: Path) -> None:
    below, words = table.rpartition("/")[0], ["a fox", "an owl", "a hen"]
    (tmp_path / "set").mkdir()
    for i, word in enumerate(words):
        rows = f"file_name,caption\na.png,{word}\nb.png,{word if i else ''}\nonly-{1 - i}.png,no such picture\n"
        members = {f"{name}.png": png(9 * i + k) for k, name in enumerate(("a", "b", f"only-{i}"))}
        packed(
            tmp_path / "set" / f"{i}.tar",
            {f"{below}/{n}".strip("/"): d for n, d in members.items()} | {table: rows.encode()},
        )
    data, said = opened(tmp_path / "set")
    assert data.captions == ((words[0],), (), (), *((words[1],), (words[1],), ()), *((words[2],), (words[2],), ()))
    assert f"3 captions of {table} for what is not there: only-1.png, only-0.png, only--1.png" in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,text\na.png,a fox\nb.png,\nc.png,un renard"),
        ("Captions.tsv", "File\tCaption\nb.png\t\na\ta fox\nc.png\tun renard"),
        ("metadata.jsonl", '{"file_name": "a.png", "caption": "a fox"}\n{"file_name": "c.png", "text": null}'),
        ("labels.csv", "image;prompt\na.png;a fox\nc.png;un renard\nc.png;ein Fuchs"),
    ],
)
def test_tables_hold_captions(name: str, text: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png", "c.png")
    (folder / name).write_text(text)
    data, said = opened(folder)
    last = {"metadata.jsonl": (), "labels.csv": ("un renard", "ein Fuchs")}.get(name, ("un renard",))
    assert data.captions == (("a fox",), (), last)
    assert data.labels is None
    assert f"{1 + bool(last)} picture{'s' if last else ''} with captions from {name}" in said


def test_a_table_holds_labels_and_captions_and_lists_of_captions(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png", "c.png", "x/d.png")
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "label": "fox", "text": ["a fox", "一只狐狸"]},
        {"file_name": "b.png", "label": "owl", "text": {"en": "no text"}},
        {"file_name": "c.png", "text": "left out with its picture"},
        {"file_name": "gone.png", "label": "", "text": "nobody"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "x" / "metadata.csv").write_text("file_name,text\nd.png,left out as well")
    texts(folder, b_txt="an owl")
    data, said = opened(folder, on_broken="skip")
    assert (data.classes, data.captions) == (("fox", "owl"), (("a fox", "一只狐狸"), ("an owl",)))
    assert "1 caption of metadata.jsonl for what is not there: gone.png" in said
    assert "1 caption of metadata.jsonl not read: it is an object; give a text or a list of texts: b.png" in said
    assert len(opened(folder, labels=False)[0].captions or ()) == 4


def test_a_table_that_cannot_be_read_is_no_reason_to_stop_without_labels(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png")
    (folder / "metadata.jsonl").write_text("{")
    data, said = opened(folder, labels=False)
    assert data.captions is None
    assert any("caption file not read: cannot read 'metadata.jsonl'" in note for note in said)


def test_parquet_is_read_where_its_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png")
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(tables, "can_read_parquet", lambda: False)
    needs = "1 caption file not read: Parquet needs an extra package; pip install 'unblot[hub]': metadata.parquet"
    assert opened(folder)[1] == [needs, "no picture has a caption: no words are learned"]
    rows = [["file_name", "text"], ["a.png", "a fox"], ["b.png", None]]
    monkeypatch.setattr(tables, "can_read_parquet", lambda: True)
    monkeypatch.setattr(tables, "_parquet_rows", lambda data: iter(rows))
    assert opened(folder)[0].captions == (("a fox",), ())


def test_json_beside_pictures_holds_captions_and_labels(tmp_path: Path) -> None:
    members = {f"{i}.png": png(i) for i in range(3)}
    members |= {"0.json": b'{"cls": 3, "caption": ["a", "b"]}', "1.json": b'{"label": 4, "text": "c"}'}
    members |= {"2.json": b'{"cls": 3}', "1.txt": b"d"}
    data, _ = opened(packed(tmp_path / "x.tar", members))
    assert (data.classes, data.captions) == (("3", "4"), (("a", "b"), ("d", "c"), ()))


def test_arrays_of_text_are_captions_and_no_labels(tmp_path: Path) -> None:
    pictures = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "x.npz", images=pictures, captions=np.array(["a fox", "", "雪"]))
    data, _ = opened(tmp_path / "x.npz")
    assert (data.labels, data.captions) == (None, (("a fox",), (), ("雪",)))
    np.savez(tmp_path / "y.npz", images=pictures, y=np.arange(3), words=np.array([["a", "b"], ["c", ""], ["", ""]]))
    data, _ = opened(tmp_path / "y.npz", options={"captions": "words"})
    assert (data.classes, data.captions) == (("0", "1", "2"), (("a", "b"), ("c",), ()))
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["images"], file["text"] = pictures, ["a fox", "ein Fuchs", "雪"]
    assert opened(tmp_path / "z.h5")[0].captions == (("a fox",), ("ein Fuchs",), ("雪",))


def test_columns_of_text_are_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"image": {"bytes": png(i), "path": None}, "label": i % 2, "text": t} for i, t in enumerate(["a", ["b", "c"]])
    ]

    class Table(list[Any]):
        features = {"image": "picture", "label": "", "text": ""}  # noqa: RUF012

        def cast_column(self, name: str, kind: Any) -> "Table":
            return self

        def __getitem__(self, at: Any) -> Any:
            return [row[at] for row in self] if isinstance(at, str) else super().__getitem__(at)

    stand_in = types.SimpleNamespace(
        Image=lambda decode: None, ClassLabel=int, load_dataset=lambda name, config: Table(rows)
    )
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.setattr(stand_in, "Image", type("Image", (), {"__init__": lambda self, decode: None}))
    data, _ = opened(Path("hf:x"), options={"image": "image"})
    assert (data.classes, data.captions) == (("0", "1"), (("a",), ("b", "c")))
    assert opened(Path("hf:x"), options={"image": "image"}, labels=False)[0].captions == (("a",), ("b", "c"))


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
        "1 caption with control characters, read as spaces: d.txt",
        "1 caption file of numbers (boxes of objects, perhaps), not read: e.txt",
        "1 caption file without text, not read: f.txt",
        "1 caption file longer than 1,048,576 bytes, not read: h.txt",
        "5 pictures without a caption: b.png, c.png, e.png, f.png, h.png",
    ):
        assert note in said


def test_captions_without_a_word_anywhere_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "a.png", "b.png")
    texts(folder, a_txt="", b_txt=" ")
    data, said = opened(folder)
    assert data.captions is None
    assert "no picture has a caption: no words are learned" in said


# Text with many zeros could be UTF-16 as well, such as "000\0".
WORDS = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: "\0" not in text) | st.sampled_from(
    ["", " ", "a fox", "狐狸", "🦊\u200d❄️", "\x00", "\x1b[2J", "\u202e", "0 1 2 3 4", "\ufeff", "a\r\nb", '","', "\x85"]
)
STEMS = st.sampled_from(["a", "b", "a.b", "é", "x/a", "x/b", ".h", "y"])


@given(
    st.lists(STEMS, max_size=4, unique=True).map(lambda stems: ["a", *(stem for stem in stems if stem != "a")]),
    st.dictionaries(STEMS.flatmap(lambda stem: st.sampled_from([f"{stem}.txt", f"{stem}.caption"])), WORDS, max_size=5),
    st.none() | st.lists(st.tuples(STEMS.map(lambda stem: f"{stem}.png"), WORDS), max_size=4),
)
@settings(max_examples=100)
def test_every_picture_has_exactly_its_captions_or_is_named(
    stems: list[str], files: dict[str, str], rows: list[tuple[str, str]] | None
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        write(folder, *(f"{stem}.png" for stem in stems))
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(text.encode())
        if rows is not None:
            lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
            (folder / "metadata.jsonl").write_text("\n".join(lines))
        listing = open_source(str(folder), labels=False)[0].load(folder)
        report = "\n".join([*listing.notes, *(listing.captions.notes if listing.captions else ())])
        assert not any(ord(c) < 32 for line in report.split("\n") for c in line)
        found = captions_of(listing)
        for stem in stems:
            if hidden(f"{stem}.png"):
                continue
            wanted = [clean(text) for name, text in rows or () if name == f"{stem}.png"]
            for suffix in (".caption", ".txt"):
                text = files.get(stem + suffix, "").replace("\r\n", "\n")
                wanted += [clean(line) for line in text.split("\n")] if readable_here(text) else []
            assert found[f"{stem}.png"] == tuple(filter(None, wanted))
            assert found[f"{stem}.png"] or not any(found.values()) or f"{stem}.png" in report
        for name in files:
            beside = name.rpartition(".")[0] in stems
            assert beside or hidden(name) or printable(name) in report or f"{suffix_of(name)} (" in report
    finally:
        shutil.rmtree(folder)


def captions_of(listing: Listing) -> dict[str, tuple[str, ...]]:
    names = [item.name for item in listing.items]
    texts = listing.captions.texts if listing.captions else ()
    return dict(zip(names, texts or [()] * len(names)))


def readable_here(text: str) -> bool:
    """Whether a file of this text is one of captions: no binary, no UTF-16 (every other byte zero), no boxes."""
    damage = sum((clean(c) != c and not c.isspace()) or c == "\ufffd" for c in text.removeprefix("\ufeff"))
    boxes = [line for line in text.split("\n") if clean(line)]
    return damage <= 0.2 * len(text) and not all(line.split() == ["0", "1", "2", "3", "4"] for line in boxes)


def test_captions_do_not_follow_the_order_of_the_disk(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", *(f"{c}/{i}.png" for c in "ab" for i in range(3)))
    for c in "ab":
        texts(folder / c, **{"0_txt": f"{c} nought", "0_caption": "nought", "1.png_txt": "one", "none_txt": "none"})
        (folder / c / "metadata.csv").write_text("file_name,text\n2.png,two\n2.png,zwei")
    one = open_source(str(folder))[0].load(tmp_path)
    with shuffled(0):
        two = open_source(str(folder))[0].load(tmp_path)
    assert one.captions == two.captions
    assert captions_of(one)["b/0.png"] == ("nought", "b nought")
    assert captions_of(one)["a/1.png"] == ("one",)
    assert captions_of(one)["a/2.png"] == ("two", "zwei")
