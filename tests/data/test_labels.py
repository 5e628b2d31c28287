"""Labels: one order of classes everywhere, tables of every common kind, and no label lost without a word."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import printed_by_hash_seed
from small_sets import packed, png, write
from unblot.data.dataset import Dataset, open_data
from unblot.data.readers.listing import Item, class_names, readable
from unblot.data.readers.sources import open_source
from unblot.errors import UnblotError, printable

TIES = ["nan", "NaN", "1", "01", "1.0", "10", "1_0", "1e1", "inf", "-inf", "-0", "0", "cat", "Cat", "", "é", "١"]


def by_name(data: Dataset) -> dict[str, str]:
    """The class of each picture by its name."""
    assert data.cached is not None
    assert data.labels is not None
    return {name: data.classes[label] for name, label in zip(data.cached.names, data.labels)}


@given(st.lists(st.sampled_from(TIES) | st.text() | st.floats().map(str), min_size=1), st.randoms())
def test_classes_have_one_order_whatever_order_the_labels_come_in(raw: list[str], rng: random.Random) -> None:
    labels, classes = class_names(raw)
    shuffled = rng.sample(raw, len(raw))
    assert class_names(shuffled)[1] == classes
    assert [classes[i] for i in labels] == [readable(label) for label in raw]
    assert len(set(classes)) == len(classes)
    assert class_names(list(classes))[1] == classes


def test_numbers_come_first_by_value_then_by_text() -> None:
    raw = ["cat", "nan", "10", "1_0", "2", "1.0", "01", "1", "inf", "-inf", "Cat"]
    assert class_names(raw)[1] == ("-inf", "01", "1", "1.0", "2", "10", "1_0", "inf", "Cat", "cat", "nan")


def test_the_order_does_not_follow_the_hash_seed() -> None:
    code = f"from unblot.data.readers.listing import class_names; print(ascii(class_names({TIES!r})))"
    found = printed_by_hash_seed(("0", "1", "7"), code)
    assert len(found) == 1


def test_names_of_classes_can_be_printed() -> None:
    raw = ["a\x1b[31m", "caf\udce9", "b\u202e", "\ud800", "मी\u200dल", "全 角\u3000"]
    _, classes = class_names(raw)
    assert set(classes) == {"a\\x1b[31m", "café", "b\\u202e", "?", "मी\u200dल", "全 角\u3000"}
    assert all(printable(name) == name and name.encode() for name in classes)


def test_a_stray_picture_beside_class_folders_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path, *(f"{c}/{i}.png" for c in ("ant", "bee") for i in range(8)), "stray\x1b.png")
    said: list[str] = []
    data = open_data(str(tmp_path), report=said.append)
    assert len(data) == 16
    assert data.classes == ("ant", "bee")
    assert "1 picture in no class folder left out: stray\\x1b.png" in said
    assert len(open_data(str(tmp_path), labels=False)) == 17
    with pytest.raises(UnblotError, match="labels=no is unknown here; give labels=none"):
        open_data(f"{tmp_path}:labels=no")


def test_where_most_pictures_are_loose_there_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(4)), "old/1.png", "new/1.png")
    said: list[str] = []
    data = open_data(str(tmp_path), report=said.append)
    assert (len(data), data.labels) == (6, None)
    assert any("no classes from the subfolders: 4 of 6 pictures are in no class folder" in line for line in said)


@pytest.mark.parametrize("splits", [("Train", "TEST"), ("train", "eval"), ("train", "dev", "test")])
def test_folders_of_a_split_are_no_classes_in_any_case(splits: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/{c}/1.png" for split in splits for c in ("ant", "bee")), "test.png")
    assert open_data(str(tmp_path)).classes == ("ant", "bee")
    write(tmp_path / "flat", *(f"{split}/{i}.png" for split in splits for i in range(2)))
    assert open_data(str(tmp_path / "flat")).labels is None


TABLES = {
    "commas": ("labels.csv", "file,label\na/1.png,ant\nb/2.png,bee\n"),
    "another case": ("Labels.CSV", "File_Name,Label\na/1.png,ant\nb/2.png,bee\n"),
    "semicolons": ("metadata.csv", "file name;label\na/1.png;ant\nb/2.png;bee\n"),
    "tabs": ("labels.tsv", "id\tfile\tlabel\n1\ta/1.png\tant\n2\tb/2.png\tbee\n"),
    "JSON lines": (
        "metadata.jsonl",
        '{"file_name": "a/1.png", "label": "ant"}\n\n{"file_name":"b/2.png","label":"bee"}',
    ),
    "old Mac": ("labels.csv", "file,label\ra/1.png,ant\rb/2.png,bee\r"),
    "spaces": ("labels.csv", "file, label\na/1.png, ant\nb/2.png ,bee\n"),
    "quotes": ("labels.csv", '"file","label"\r\n"a/1.png","ant"\r\n"b/2.png","bee"\r\n'),
    "backslashes": ("labels.csv", "file,label\na\\1.png,ant\n.\\b\\2.png,bee\n"),
    "no suffix": ("labels.csv", "file,label\na/1,ant\nb/2,bee\n"),
    "twice the same": ("labels.csv", "file,label\na/1.png,ant\nb/2.png,bee\n./a/1.png,ant\n"),
    "a long field": ("labels.csv", f"file,label,text\na/1.png,ant,{'x' * 200_000}\nb/2.png,bee,\n"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_every_common_kind(kind: str, encoding: str, tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "b/2.png")
    name, text = TABLES[kind]
    (tmp_path / name).write_bytes(text.encode(encoding))
    listing = open_source(str(tmp_path))[0].load(tmp_path)
    assert listing.labels is not None
    assert [listing.classes[i] for i in listing.labels] == ["ant", "bee"]
    assert [item.name for item in listing.items] == ["a/1.png", "b/2.png"]
    assert listing.broken == ()


def test_every_shard_has_a_table_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for i, (first, second) in enumerate([("ant", "bee"), ("bee", "cow"), ("", "ant")]):
        rows = f"file,label\nb.png,{second}\na.png,{first}\n".encode()
        members = {"a.png": png(9 * i), "b.png": png(9 * i + 1), "c.png": png(9 * i + 2)}
        packed(tmp_path / "set" / f"{i}.tar", members | {f"{'metadata' if i == 1 else 'labels'}.csv": rows})
    said: list[str] = []
    data = open_data(str(tmp_path / "set"), report=said.append)
    assert data.labels is not None
    assert [data.classes[i] for i in data.labels] == ["bee", "ant", "cow", "bee", "ant"]
    assert "3 classes from 'labels.csv' and 'metadata.csv'" in said
    assert "3 pictures that labels.csv or metadata.csv does not name left out: c.png" in said
    assert "1 picture to which labels.csv or metadata.csv gives no label left out: a.png" in said


def test_a_table_in_latin_1_gives_readable_classes(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "é.png", "u\udce9.png")
    (tmp_path / "labels.csv").write_bytes("file,label\n1.png,café\né.png,thé\nué.png,thé\n".encode("latin-1"))
    data = open_data(str(tmp_path))
    assert data.classes == ("café", "thé")
    assert sorted(by_name(data).values()) == ["café", "thé", "thé"]


def test_folders_named_in_latin_1_give_readable_classes(tmp_path: Path) -> None:
    write(tmp_path, "caf\udce9/1.png", "thé/1.png")
    assert open_data(str(tmp_path)).classes == ("café", "thé")


def test_pictures_without_a_label_are_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "labels.csv").write_text("file,label\n1.png,ant\n2.png,\n")
    said: list[str] = []
    data = open_data(str(tmp_path), report=said.append)
    assert by_name(data) == {"1.png": "ant"}
    assert "1 picture to which labels.csv gives no label left out: 2.png" in said
    assert "1 picture that labels.csv does not name left out: 3.png" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\n1.png,ant\n1.png,bee\n", "gives '1.png' two labels, 'ant' and 'bee'"),
        ("file,label\n1.png,ant\n.\\1.png,bee\n", "gives '1.png' two labels"),
        ("file,label\n2.png,ant\n", r"2\.png: labels\.csv names it, but it is not there, not with / for \\"),
        ("file,label\n3.png,ant\n", r"3\.png: labels\.csv names it, but it is not there; 'in/3\.png' is"),
        ("file,label\nin/4,ant\n", r"several files fit: in/4\.jpg, in/4\.png; add the suffix"),
        ("picture,what\x1b\n1.png,ant\n", r"has columns picture, what\\x1b; it needs"),
    ],
)
def test_a_table_that_does_not_fit_says_why(text: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path, "1.png", "in/3.png", "in/4.png", "in/4.jpg")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UnblotError, match=reason):
        open_data(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "line 2 is no JSON object"),
        ('{"file": "1.png", "label": ["ant", "bee"]}', "a picture needs one label"),
    ],
)
def test_json_lines_that_do_not_fit_say_why(line: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path, "1.png")
    (tmp_path / "labels.jsonl").write_text('{"file": "1.png", "label": "ant"}\n' + line)
    with pytest.raises(UnblotError, match=reason):
        open_data(str(tmp_path))


def test_label_files_of_some_pictures_only(tmp_path: Path) -> None:
    write(tmp_path, *(f"{i}.png" for i in range(4)))
    for i in range(3):
        (tmp_path / f"{i}.cls").write_text("even" if i % 2 == 0 else "odd")
    said: list[str] = []
    assert by_name(open_data(str(tmp_path), report=said.append)) == {"0.png": "even", "1.png": "odd", "2.png": "even"}
    assert "1 picture without a label in a .cls or .json file left out: 3.png" in said
    (tmp_path / "1.cls").unlink()
    said.clear()
    assert open_data(str(tmp_path), report=said.append).labels is None
    assert any("2 of 4 pictures are without a label" in line for line in said)


def test_a_name_with_backslashes_in_an_archive_has_folders() -> None:
    from unblot.data.readers.labels import labels_from_folders

    items = [Item(name, "x.zip") for name in ("set\\ant\\1.png", "set\\bee\\1.png")]
    assert labels_from_folders(items).classes == ("ant", "bee")
    assert labels_from_folders([item._replace(place="") for item in items]).labels is None
