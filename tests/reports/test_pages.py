"""What every page keeps: names are text whatever they hold, nothing is loaded from elsewhere, charts show the data."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from pages import NASTY, SHOWN, Reader, check
from unblot.data.audit.audit import audit_dataset
from unblot.data.dataset import open_data
from unblot.reports import audit, charts, tuning
from unblot.reports.render import render
from unblot.sampling.settings import Candidate, SamplerConfig


@pytest.fixture
def candidates() -> list[Candidate]:
    plain = SamplerConfig("dpmpp_2m", "karras", 8)
    guided = SamplerConfig("heun", "log_snr", 6, guidance=2.0, autoguide=f"{NASTY}.safetensors")
    return [Candidate(plain, 8, 3.0, 0.1), Candidate(guided, 11, 2.0, 0.05)]


def about(**changes: object) -> dict:
    same = {"distance": "Fréchet distance", "evaluated_by": "Fréchet distance", "guidance": 1.0}
    return {"pictures": 500, "reference": f"90 {NASTY}", "features": "random", "floor": 1.0, **same, **changes}


def test_the_tuning_page(candidates: list[Candidate]) -> None:
    others = [Candidate(SamplerConfig("unipc", "time", 8), 8, 3.5)]
    page = tuning.front_page(NASTY, about(), candidates, others)
    check(page, times=4)  # title, heading, reference, guide
    assert page.count('<tr class="candidate') == len(candidates)
    assert page == tuning.front_page(NASTY, about(), candidates, others)
    assert "dashed line" in page
    assert "dashed line" not in tuning.front_page("run", about(floor=None), candidates[:1], [])
    table = tuning.table(about(), candidates)
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert len(table.splitlines()) == 2 + len(candidates)
    assert table.startswith("Fréchet distance (random features) of 500 samples to")
    assert "± 0.098<" in page  # 1.96 times 0.05


def test_the_tuning_page_of_the_kernel_distance_which_can_be_negative(candidates: list[Candidate]) -> None:
    others = [Candidate(SamplerConfig("unipc", "time", 8), 8, 0.02)]
    below = [replace(candidate, distance=candidate.distance - 2.5) for candidate in candidates]
    kernel = about(distance="Kernel distance", evaluated_by="Kernel distance", floor=-0.1, guidance=2.0)
    page, table = tuning.front_page("run", kernel, below, others), tuning.table(kernel, below)
    assert page.count("Kernel distance") == 2  # in the text and at the axis
    assert "Fréchet" not in page
    assert "Small dots" in page
    assert "guidance 2 towards their captions" in page
    assert "of 500 samples, drawn with guidance 2 at twice the NFE, to" in table
    mixed = {**kernel, "evaluated_by": "Fréchet distance"}
    assert "Small dots" not in tuning.front_page("run", mixed, below, others)


def test_the_audit_page_and_its_text(tmp_path: Path) -> None:
    folder = tmp_path / "set\u202e<b>"
    for kind in ("a<script>\x1b[31m", "b'\"\u2066"):
        (folder / kind).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(folder / kind / f"<i>{i}\u202e.png")
        (folder / kind / "no\u202e.png").write_bytes(b"no")
    data = open_data(str(folder), on_broken="skip", held_out=0, cache=tmp_path / "cache")
    found = audit_dataset(data)
    found = replace(found, name=NASTY, notes=(NASTY,), advice=(NASTY,), broken=((NASTY, NASTY),))
    page = audit.page(found, data)
    check(page, times=6)
    assert "a<script>\\x1b[31m" in Reader(page).text
    assert page.count("<img") > 6
    text = audit.text(found)
    assert not set("\u202e\u2066\x1b\udcff") & set(text)
    assert SHOWN in text


def test_one_of_a_thing_is_in_the_singular(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "set" / "a" / "x.png")
    data = open_data(str(tmp_path / "set"), held_out=0, cache=tmp_path / "cache")
    assert audit.summary(audit_dataset(data)).startswith("1 picture, height 8, width 8, 1 channel of uint8")
    assert "1 class," in audit.summary(replace(audit_dataset(data), classes={"a": 1}))


def test_a_misspelt_value_of_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'run' is undefined"):
        render("tuning.html")


def test_charts_show_every_value(candidates: list[Candidate]) -> None:
    metric = {"value": 2.0, "low": 1.5, "high": 2.5}
    rows = [("held-out", "samples", metric), ("real", "real", {**metric, "low": None, "high": None})]
    shown = charts.intervals(rows)
    assert ">held-out</text>" in shown
    assert ">real</text>" not in shown
    assert charts.intervals(rows[1:]) == ""
    octaves = [{"pixels": 2, "ratio": None, "low": None, "high": None}]
    assert charts.power_ratios(octaves, 0.8, 1.25) == ""
    octaves += [
        {"pixels": 4, "ratio": 1.5, "low": 1.2, "high": 1.8},
        {"pixels": 8, "ratio": 1.0, "low": 0.9, "high": 1.1},
    ]
    assert {">4–8</text>", ">8+</text>"} <= set(re.findall(r">[^<>]*</text>", charts.power_ratios(octaves, 0.8, 1.25)))
    for only in (candidates[:1], candidates):
        assert "NFE" in charts.candidates_chart(only, [], None, {"best": only[-1]}, "Fréchet distance")
