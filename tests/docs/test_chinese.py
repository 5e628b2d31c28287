"""The Chinese pages stay in step with the English ones: the same examples, pictures, tables and places in the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIRS = {path.name: (path, path.with_name(path.name.replace(".zh.md", ".md"))) for path in ROOT.glob("**/*.zh.md")
         if ".venv" not in path.parts}  # fmt: skip


def code(text: str) -> list[str]:
    """The blocks of a page without their comments."""
    return [re.sub(r"#.*", "", body) for body in re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def test_there_are_four() -> None:
    assert set(PAIRS) == {"README.zh.md", "index.zh.md", "how-it-works.zh.md", "glossary.zh.md"}


@pytest.mark.parametrize("name", PAIRS)
def test_examples_and_pictures_are_the_same(name: str) -> None:
    chinese, english = (path.read_text() for path in PAIRS[name])
    assert code(chinese) == code(english)
    assert re.findall(r"!\[[^]]*\]\(([^)]*)\)", chinese) == re.findall(r"!\[[^]]*\]\(([^)]*)\)", english)


@pytest.mark.parametrize("name", ["how-it-works.zh.md", "index.zh.md"])
def test_sections_and_numbers_are_the_same(name: str) -> None:
    chinese, english = (path.read_text() for path in PAIRS[name])
    assert len(re.findall(r"^## ", chinese, re.MULTILINE)) == len(re.findall(r"^## ", english, re.MULTILINE))
    assert [row for row in chinese.splitlines() if re.match(r"\| [\d.]+ \|", row)] == [
        row for row in english.splitlines() if re.match(r"\| [\d.]+ \|", row)
    ]


def test_the_glossary_has_every_term_at_its_place_in_the_code() -> None:
    chinese, english = (
        [re.split(r"(?<!\\)\|", row)[-3] for row in path.read_text().splitlines() if row.startswith("| ")]
        for path in PAIRS["glossary.zh.md"]
    )
    assert len(english) > 40
    assert chinese[1 : len(english)] == english[1:]


def test_a_term_has_one_translation() -> None:
    """The English in brackets stands behind the same word, wherever it is explained."""
    seen: dict[str, set[str]] = {}
    for chinese, _ in PAIRS.values():
        for word, english in re.findall(r"([\u4e00-\u9fff]{2,8})（([a-z][a-z -]+)）", chinese.read_text()):
            seen.setdefault(english, set()).add(word[-2:])
    assert {english: words for english, words in seen.items() if len(words) > 1} == {}
