"""No caption is lost without a word: what is odd is read whole, or named with the way out."""

import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from helpers import captioned_folder
from small_sets import packed, png, write
from unblot.cli.parser import main
from unblot.data.dataset import open_data
from unblot.errors import UnblotError

Captions = tuple[tuple[str, ...], ...] | None
NONE = "no picture has a caption: no words are learned"


def read(path: Path, **choices: Any) -> tuple[Captions, list[str]]:
    """The captions of a data set, and what is said of it."""
    said: list[str] = []
    return open_data(str(path), report=said.append, **choices).captions, said


def beside(tmp_path: Path, **files: bytes) -> Path:
    """A folder of a.png, b.png and c.png, and files `a_txt` as a.txt."""
    folder = write(tmp_path / "set", "a.png", "b.png", "c.png")
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        'file_name,text\na.png,a red fox, in snow\nb.png,an owl,\nc.png,"quoted, whole"\n',
        'file_name,text,\na.png,a red fox, in snow,\nb.png,an owl,\nc.png,"quoted, whole",\n',
        "file_name;text\na.png;a red fox, in snow\nb.png;an owl\nc.png;quoted, whole\n",
    ],
)
def test_a_caption_at_the_end_of_a_row_is_whole_without_quotes(text: str, tmp_path: Path) -> None:
    captions, said = read(beside(tmp_path, captions_csv=text.encode()))
    assert captions is not None
    assert [texts[0].rstrip(",") for texts in captions] == ["a red fox, in snow", "an owl", "quoted, whole"]
    joined = "1 caption of captions.csv with ',' and no quotes, read to the end of the line: a.png"
    assert (joined in said) == (";" not in text)


def test_a_row_of_more_cells_than_columns_is_named(tmp_path: Path) -> None:
    text = b"file_name,text,author\na.png,a red fox, in snow,me\nb.png,an owl,me\nc.png,a bee,me,\n"
    captions, said = read(beside(tmp_path, metadata_csv=text))
    assert captions == (("a red fox",), ("an owl",), ("a bee",))
    note = "1 row of metadata.csv with more cells than columns; put what has ',' in it into quotes: a.png"
    assert [line for line in said if "cells" in line] == [note]


def test_a_row_of_labels_keeps_its_label_where_its_caption_is_joined(tmp_path: Path) -> None:
    text = b"file_name,label,text\na.png,fox,red, in snow\nb.png,owl,white\nc.png,owl,gray\n"
    data = open_data(str(beside(tmp_path, metadata_csv=text)))
    assert (data.classes, data.captions) == (("fox", "owl"), (("red, in snow",), ("white",), ("gray",)))


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("captions_csv", "file_name,description\na.png,fox\n", "caption, captions, text, texts or prompt"),
        ("captions_tsv", "file_name\tdescription\na.png\tfox\n", "caption, captions, text, texts or prompt"),
        ("metadata_jsonl", '{"file_name": "a.png", "description": "fox"}', "caption, captions, text, texts or prompt"),
        ("captions_csv", "description,caption\na.png,fox\n", "file, file_name, filename, path or image"),
    ],
)
def test_a_table_without_a_known_column_is_named_with_those_that_are_known(
    name: str, text: str, columns: str, tmp_path: Path
) -> None:
    _, said = read(beside(tmp_path, **{name: text.encode()}))
    header = text.split("\n")[0]
    there = "description, caption" if header == "description,caption" else "file_name, description"
    table = name.replace("_", ".")
    assert said == [f"1 table without captions: no column {columns} among {there}: {table}", NONE]


@pytest.mark.parametrize("name", ["labels_csv", "metadata_csv"])
def test_nothing_is_said_of_a_table_of_labels(name: str, tmp_path: Path) -> None:
    folder = beside(tmp_path, **{name: b"file,class,size\na.png,1,4\nb.png,2,4\nc.png,2,4\n"})
    for labels in (True, False):
        assert not any("caption" in line for line in read(folder, labels=labels)[1])


def test_text_that_is_no_unicode_is_named_wherever_it_stands(tmp_path: Path) -> None:
    table = "file_name,text\na.png,café\n".encode("latin-1")
    named = {"b_json": '{"text": "thé"}'.encode("latin-1"), "c_json": b'{"text": "tea"}'}
    folder = beside(tmp_path, captions_csv=table, **named)
    captions, said = read(folder)
    assert captions == (("café",), ("thé",), ("tea",))
    assert "2 caption files neither UTF-8 nor UTF-16, read as Windows-1252: captions.csv, b.json" in said
    pictures = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "x.npz", images=pictures, text=np.array(["é".encode(), b"caf\xe9", b"tea"]))
    captions, said = read(tmp_path / "x.npz")
    assert captions == (("é",), ("café",), ("tea",))
    assert "1 caption neither UTF-8 nor UTF-16, read as Windows-1252: picture 1" in said


def test_json_without_captions_is_named(tmp_path: Path) -> None:
    files = {"a_json": b'{"Caption": "fox"}', "b_json": b'{"text": ', "c_json": b'["an owl"]'}
    captions, said = read(beside(tmp_path, **files))
    assert captions == (("fox",), (), ())
    no_object = 'it holds no JSON object such as {"caption": "a red fox"}'
    assert f"2 caption files not read: {no_object}: b.json, c.json" in said
    (tmp_path / "set" / "b.json").write_text('{"description": "a bee"}')
    (tmp_path / "set" / "c.json").write_text('{"label": "bee"}')
    notes = read(tmp_path / "set", labels=False)[1]
    assert "1 .json file without caption, captions, text, texts or prompt: b.json" in notes


def test_json_beside_no_picture_is_named(tmp_path: Path) -> None:
    folder = beside(tmp_path, captions_json=b'{"annotations": []}', notes_json=b"{}")
    way_out = "captions of many pictures are read from captions.csv, with columns file_name and caption"
    note = f"1 caption file beside no picture, not read; {way_out}: captions.json"
    captions, said = read(folder)
    assert (captions, said) == (None, ["other files left out: .json (1)", note, NONE])
    (folder / "a.txt").write_text("a fox")
    said = read(folder)[1]
    assert note in said
    assert "1 text file beside no picture left out: notes.json" in said


def test_json_belongs_to_pictures_of_its_key_for_captions_as_for_labels(tmp_path: Path) -> None:
    members = {f"{i}.left.png": png(i) for i in range(2)}
    members |= {f"{i}.json": f'{{"label": {i}, "text": "number {i}"}}'.encode() for i in range(2)}
    data = open_data(str(packed(tmp_path / "x.zip", members)))
    assert (data.classes, data.captions) == (("0", "1"), (("number 0",), ("number 1",)))


def test_rows_without_a_file_and_sources_without_a_word_are_named(tmp_path: Path) -> None:
    rows = b'{"text": "a red fox"}\n'
    rows += b'{"file_name": "", "text": ["an owl"]}\n{"file_name": "b.png", "text": null}\n{"text": ""}'
    folder = beside(tmp_path, metadata_jsonl=rows, captions_csv=b"file_name,text\n", a_json=b'{"text": null}')
    captions, said = read(folder)
    assert captions is None
    assert said == [
        "2 captions of metadata.jsonl without the name of a file: a red fox, ['an owl']",
        *(f"no picture has a caption from {name}" for name in ("captions.csv", "metadata.jsonl", ".json files")),
        NONE,
    ]
    (folder / "a.txt").write_text("a fox")
    assert "no picture has a caption from captions.csv" in read(folder)[1]


def test_packing_says_and_keeps_what_is_said_of_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    captioned_folder(folder, (8, 8), ["a fox", "an owl"])
    (folder / "00.txt").write_bytes("café".encode("latin-1"))
    odd = "1 caption file neither UTF-8 nor UTF-16, read as Windows-1252: 00.txt"
    whole = read(folder)[1]
    assert odd in whole
    assert main(["pack", str(folder), "--shards", str(tmp_path / "shards")]) == 0
    printed = capsys.readouterr()
    assert all(note in printed.out + printed.err for note in whole)
    assert set(whole) <= set(read(tmp_path / "shards")[1])
    assert not any("caption" in line for line in read(tmp_path / "shards", captions=False)[1])


def test_parquet_columns_need_not_match_in_case(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = write(tmp_path / "set", "a.png", "b.png", "c.png")
    columns: dict[str, list[Any]] = {"Thumb": [b"\x89", b"", b""], "File Name": ["a.png", "b.png", None]}
    columns |= {"Text": [["a fox", "a"], None, ["x"]]}
    parquet.write_table(pyarrow.table(columns), folder / "metadata.parquet")
    captions, said = read(folder)
    assert captions == (("a fox", "a"), (), ())
    assert "1 caption of metadata.parquet without the name of a file: ['x']" in said
    parquet.write_table(pyarrow.table({"Id": [1], "Thumb": [b"\x89"]}), folder / "metadata.parquet")
    assert any("prompt among Id, Thumb: metadata.parquet" in note for note in read(folder)[1])


def test_captions_of_hdf5_follow_pictures_of_one_data_set_each(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for i, name in enumerate(["ant/0", "ant/1", "bee/2", "bee/3", "stray"]):
            file[name] = np.full((8, 10), i, np.uint8)
        file["words"] = ["zero", "one", "two", "three", "four"]
    data = open_data(f"{tmp_path / 'x.h5'}:captions=words")
    assert data.classes == ("ant", "bee")
    assert data.captions == (("zero",), ("one",), ("two",), ("three",))
    with pytest.raises(UnblotError, match="no array 'nothing' of 5 captions"):
        open_data(f"{tmp_path / 'x.h5'}:captions=nothing")


def test_an_array_asked_for_as_captions_is_none_of_labels(tmp_path: Path) -> None:
    pictures = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8)
    np.savez(tmp_path / "x.npz", images=pictures, words=np.array(["a fox", "an owl", "a bee"]))
    data = open_data(f"{tmp_path / 'x.npz'}:captions=words")
    assert (data.labels, data.captions) == (None, (("a fox",), ("an owl",), ("a bee",)))


def test_other_columns_of_text_of_the_hub_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, large, number = (types.SimpleNamespace(dtype=kind) for kind in ("string", "large_string", "int64"))
    columns = {"image": "picture", "Text": text, "title": text, "story": large, "age": number}
    columns |= {"tags": types.SimpleNamespace(feature=text), "words": [large], "sizes": [number]}

    class Table(list[Any]):
        features = columns

        def cast_column(self, name: str, kind: Any) -> "Table":
            return self

        def __getitem__(self, at: Any) -> Any:
            return [row[at] for row in self] if isinstance(at, str) else super().__getitem__(at)

    rows = Table({"image": {"bytes": png(i), "path": None}, "Text": "fox", "title": "Fox"} for i in range(2))
    kinds = {"Image": type("Image", (), {"__init__": lambda self, decode: None}), "ClassLabel": int}
    stand_in = types.SimpleNamespace(load_dataset=lambda name, config: rows, **kinds)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    captions, said = read(Path("hf:titled"), options={"image": "image"})
    assert captions == (("fox",), ("fox",))
    assert "other columns of text left out: title, story, tags, words; caption=NAME reads another one" in said


def test_of_several_columns_of_captions_the_one_that_is_read_is_named(tmp_path: Path) -> None:
    rows = b'{"file_name": "a.png", "text": "a fox"}\n{"file_name": "b.png", "caption": "an owl", "text": "a bird"}'
    captions, said = read(beside(tmp_path, metadata_jsonl=rows, c_json=b'{"prompt": "bee", "text": "a bee"}'))
    assert captions == ((), ("an owl",), ("a bee",))
    assert "1 table with text and caption, of which only caption is read: metadata.jsonl" in said
    assert "1 .json file with prompt and text, of which only text is read: c.json" in said


@pytest.mark.parametrize("caption", ['"a fox', '"a" fox', '"5" nails"'])
def test_quotes_that_do_not_pair_are_told(caption: str, tmp_path: Path) -> None:
    rows = f"file_name,text\na.png,{caption}\nb.png,an owl\nc.png,a bee\n"
    note = 'table with quotes that do not pair, perhaps read wrongly; write "" for a quote within quotes: captions.csv'
    assert f"1 {note}" in read(beside(tmp_path, captions_csv=rows.encode()))[1]
    sound = 'file_name,text\na.png,5" nails\nb.png,"an ""owl""\nat night"\nc.png,a bee\n'
    captions, said = read(beside(tmp_path, captions_csv=sound.encode()))
    assert captions == (('5" nails',), ('an "owl" at night',), ("a bee",))
    assert not any("quotes" in line for line in said)


def test_what_is_no_number_is_no_caption(tmp_path: Path) -> None:
    rows = b'{"file_name": "a.png", "text": NaN}\n{"file_name": "b.png", "text": 7}'
    assert read(beside(tmp_path, metadata_jsonl=rows))[0] == ((), ("7",), ())
