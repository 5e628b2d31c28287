"""Every command and every line of Python in the documentation runs as it is written, with fewer steps and samples."""

import argparse
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unblot
from helpers import captioned_folder, few_samplers
from unblot import api
from unblot.cli.parser import main, make_parser
from unblot.config.durations import parse_budget
from unblot.data.audit import turning
from unblot.sampling import SOLVERS
from unblot.tuning import screening

ROOT = Path(__file__).parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.glob("docs/**/*.md"))}
PAGES |= {path.name: path.read_text() for path in sorted(ROOT.glob("*.md"))}
BLOCK = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OTHERS = {"pip", "python", "python3", "make", "git", "cd", ".", "curl", "torchrun"}  # programs that are not run here
SERVERS = {"studio", "serve", "explain"}  # commands that do not end, or take long, and have tests of their own
PLACEHOLDERS = re.compile(r"[….|]{3}|…|\b(FOLDER|FILE|SPEC|KIND|TEXT|NAME|PATH|N|PLACE|COMMAND|OWNER|mymodule)\b")
NETWORKS = {
    "ddpm": "ddpm_unet:width=16,multipliers=1,blocks=1,attention=",
    "default": "unet:width=16,multipliers=1,blocks=1",
}


def blocks(text: str, *languages: str) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page that are in one of these languages."""
    return [(language, body) for language, body in BLOCK.findall(text) if language in languages]


def lines(body: str) -> list[list[str]]:
    """The words of each command of a console block; a line that ends in a backslash goes on."""
    whole = body.replace("\\\n", " ").splitlines()
    return [words for line in whole if (words := shlex.split(line, comments=True))]


def known(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser."""
    return next((dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})


def named(words: list[str]) -> None:
    """A command in a sentence, or with placeholders: it exists, and has the flags that are named."""
    parser = make_parser()
    for word in words[1:3]:
        parser = known(parser).get(word, parser)
    assert parser.prog != "unblot" or words[1].startswith("-") or words[1].isupper(), words
    flags = {flag for one in (parser, *known(parser).values()) for a in one._actions for flag in a.option_strings}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= flags, words


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page: str) -> None:
    for text in re.findall(r"`(unblot [^`]+)`", BLOCK.sub("", PAGES[page])):
        named(shlex.split(text))


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_blocks_are_understood(page: str) -> None:
    for _, body in blocks(PAGES[page], "", "console"):
        for words in lines(body):
            words = words[words.index("unblot") :] if "unblot" in words[:5] else []
            if PLACEHOLDERS.search(" ".join(words)):
                named(words)
            elif words:
                make_parser().parse_args(words[1:])


@pytest.mark.parametrize("page", [page for page in PAGES if "CHANGELOG" not in page])
def test_console_blocks_hold_commands_alone(page: str) -> None:
    for _, body in blocks(PAGES[page], "console"):
        assert {words[0] for words in lines(body)} <= OTHERS | {"unblot"}


def test_extras_targets_and_scripts_exist() -> None:
    text = "\n".join(PAGES.values())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"unblot\[(\w+)\]", text)) <= set(extras)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for t in PAGES.values() for _, b in blocks(t, "console") for words in lines(b)
            if words[0] == "make"} <= targets  # fmt: skip
    for name in set(re.findall(r"(?:benchmarks|docs)/\w+\.py", text)):
        assert (ROOT / name).is_file(), name


def test_every_benchmark_is_named() -> None:
    """A benchmark is a script that parses arguments; what several of them use has none."""
    named = set(re.findall(r"benchmarks/(\w+\.py)", "\n".join(PAGES.values())))
    scripts = {p.name for p in (ROOT / "benchmarks").glob("*.py") if "ArgumentParser(" in p.read_text()}
    assert scripts <= named


def test_flags_of_benchmarks_are_theirs() -> None:
    found = re.findall(r"`(?:python )?(benchmarks/\w+\.py)((?: [^`]*)?)`", "\n".join(PAGES.values()).replace("\n", " "))
    assert len(found) > 20
    for name, rest in found:
        source = (ROOT / name).read_text()
        for flag in re.findall(r"--[\w-]+", rest):
            assert f'"{flag}"' in source, f"{name} has no {flag}"


def figures(table: str) -> bool:
    """Is at least half of a table numbers, its first column apart?"""
    cells = [cell.strip() for row in table.splitlines()[2:] for cell in re.split(r"(?<!\\)\|", row)[2:-1]]
    return 2 * sum(bool(re.match(r"[*−–+\-≤<>~]*\d", cell)) for cell in cells) >= len(cells) > 0


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def measured() -> set[str]:
    """The places that measurements.md names, `page` or `page#section`, each with a command and a day."""
    rows = re.findall(
        r"\]\(([\w./#-]+)\) \| `[^`]+`.*\| (?:–|[\d, ]+) \|$", PAGES["docs/measurements.md"], re.MULTILINE
    )
    return {row.replace(".md", "") for row in rows}


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("docs/") and ".zh" not in p])
def test_figures_stand_beside_a_command_and_a_day(page: str) -> None:
    """In the section of a table, or in measurements.md, which has machine and versions too; a tutorial links."""
    name, known = page.removeprefix("docs/").removesuffix(".md"), measured()
    for section in re.split(r"^(?=## )", PAGES[page], flags=re.MULTILINE):
        if not any(figures(table) for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)):
            continue
        titles = re.findall(r"^#+ (.*)", section, re.MULTILINE)
        here = re.search(r"benchmarks/\w+\.py", section) and re.search(r"\d November 2026|November\n2026", section)
        there = known & {name, *(f"{name}#{anchor(title)}" for title in titles)}
        linked = "tutorials/" in page and re.search(r"\]\(\.\./(sampling|recipe|evaluation)\.md", section)
        assert here or there or linked, f"{page}, {titles[0]}: add a row to docs/measurements.md"


# --- blocks are run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, measures and tunes as asked, but few steps of a small network and few samples."""

    def fewer(real: Callable[..., Any], **most: Any) -> Callable[..., Any]:
        def called(*args: Any, **choices: Any) -> Any:
            if choices.get("budget"):
                parse_budget(choices["budget"])
            return real(*args, **{**choices, **most})

        return called

    train, resume = api.train, api.resume

    def small_train(data: Any = "digits", **choices: Any) -> Any:
        if budget := choices.pop("budget", None):
            parse_budget(budget)
        network = NETWORKS[choices.get("preset", "default")]
        how = {"network": network, "steps": 3, "batch_size": 8, "preview_every": 0, "held_out_every": 0, "quiet": True}
        how |= {"sampling_steps": 2, "clusters": 0} | ({"size": "16"} if choices.get("size") else {})
        how |= {"latent_steps": 2, "latent_width": 8} if choices.get("latent") else {}
        if choices.get("adapter"):  # the network and the recipe are those of the run that it adds to
            how = {name: how[name] for name in ("steps", "batch_size", "preview_every", "held_out_every", "quiet")}
            how |= {"size": "8x8", "colour": "gray"}
        data = "shapes:count=100,size=16" if data == "shapes" else data
        return train(data, **{**choices, **how})

    def small_resume(folder: Any, **choices: Any) -> Any:
        if budget := choices.pop("budget", None):
            parse_budget(budget)
        more = 5 if budget or choices.get("steps") else None
        return resume(folder, **{**choices, "steps": more, "quiet": True})

    monkeypatch.setattr(api, "train", small_train)
    monkeypatch.setattr(api, "resume", small_resume)
    monkeypatch.setattr(api, "plan", fewer(api.plan, size="16"))
    monkeypatch.setattr(api, "distill", fewer(api.distill, steps=2, batch_size=8, quiet=True))
    evaluate = fewer(api.evaluate, n=24, features="pixels", quiet=True)
    monkeypatch.setattr(api, "evaluate", lambda *a, **k: evaluate(*a, likelihood=0 if "samples" in k else 2, **k))
    monkeypatch.setattr(api, "tune", fewer(api.tune, n=100, features="pixels"))
    few_samplers(monkeypatch)
    monkeypatch.setattr(screening, "NFES", (8,))
    monkeypatch.setattr(screening, "PLAIN_SPACINGS", ("karras",))
    monkeypatch.setattr(turning, "ENOUGH", 0)
    monkeypatch.setattr(api, "choose_ema", fewer(api.choose_ema, n=24))
    monkeypatch.setattr(api, "try_out", lambda *_, **__: None)
    monkeypatch.setattr(api, "training_seconds", lambda _: 60.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of digits, one of colour pictures, and one of pictures with captions, with what they learned from."""
    folder = tmp_path_factory.mktemp("given")
    how: dict[str, Any] = {"network": NETWORKS["default"], "steps": 3, "batch_size": 8, "held_out_every": 0}
    how |= {"quiet": True}
    how |= {"preview_every": 0, "sampling_steps": 2, "clusters": 0}
    (folder / "colour").mkdir()
    (folder / "words").mkdir()
    pictures(folder / "colour" / "photos")
    captioned_folder(folder / "words", (16, 16), ("a grey cat on a chair", "a red circle", "two stars"))
    data: dict[str, str | Path] = {
        "digits": "digits",
        "colour": folder / "colour" / "photos",
        "words": folder / "words",
    }
    return {name: unblot.train(source, out=folder / f"{name}-run", **how).path for name, source in data.items()}


def pictures(folder: Path) -> Path:
    """Twenty-four pictures in colour of 16 x 16 pixels, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(24):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
    return folder


def lay_out(page: str, runs: dict[str, Path], folder: Path) -> None:
    """Puts into the folder what a page takes for granted.

    A tutorial takes for granted a folder of photographs and one with captions; other pages runs and pictures as well.
    """
    pictures(folder / "photos")
    (folder / "captioned").mkdir()
    captioned_folder(folder / "captioned", (16, 16), ("a grey cat", "a chair", "a dog in the snow"))
    if "tutorials/" in page or page.endswith("index.md"):
        shutil.copytree(folder / "photos", folder / "PICTURES")
        return
    kind = "words" if "captions" in page else "colour" if "sampling" in page else "digits"
    made = set(re.findall(r"--out (\S+)", PAGES[page]))
    for name in {"RUN", "OTHER", *re.findall(r"\bruns/[\w-]+", PAGES[page])} - made:
        if not name.endswith("-distilled"):
            shutil.copytree(
                runs[kind if name == "RUN" else "words" if name == "runs/shapes" else "digits"], folder / name
            )
    for name in ("PICTURES", "NEW_PICTURES", "pictures", "DATA"):
        shutil.copytree(folder / "photos", folder / name)
    photo = Image.open(folder / "photos" / "a" / "0.png")
    for name in ("cat.png", "dog.png", "sketch.png"):
        photo.save(folder / name)
    photo.convert("L").save(folder / "gray.png")
    photo.convert("L").point(lambda value: 255 * (value > 128)).save(folder / "mask.png")
    photo.resize((8, 8)).save(folder / "small.png")
    (folder / "prompts.txt").write_text("a red circle\ntwo stars\n")
    (folder / "mymodule.py").write_text("from torch import nn\n\n\nclass MyNet(nn.Module):\n    pass\n")


def run_page(text: str) -> None:
    """Runs the blocks of a page one after the other, in the present folder."""
    names: dict[str, Any] = {}
    for language, body in blocks(text, "", "console", "python"):
        if language == "python":
            exec(compile(body, "page", "exec"), names)
            continue
        for words in lines(body):
            if words[0] == "unblot" and words[1] not in SERVERS and not PLACEHOLDERS.search(" ".join(words)):
                assert main(words[1:]) == 0, " ".join(words)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "console", "python")])
def test_the_examples_run(
    page: str, runs: dict[str, Path], small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SOLVERS, "quieter", SOLVERS["ddim"])  # which a page adds: it goes with the test
    lay_out(page, runs, tmp_path)
    run_page(PAGES[page])


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_and_show_what_they_drew(
    path: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    assert path.stat().st_size < 200_000, "outputs of a notebook are kept small"
    names: dict[str, Any] = {}
    for cell in cells:
        assert cell["outputs"] or cell is not cells[-1]
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
