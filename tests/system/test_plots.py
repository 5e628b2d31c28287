"""Charts: the same bytes each time, nothing from outside, colours from the page, and no state of pyplot touched."""

import re
import subprocess
import sys

from unblot.system.plots import COLOURS, chart, log_axis


def picture(label: str = "losses") -> str:
    def draw(axes) -> None:
        axes.plot([1, 2, 3], [0.3, 0.32, 0.35], "o-", color=COLOURS["samples"])
        axes.set(xlabel="steps")
        log_axis(axes, "y", 0.2, 0.5)

    return chart(300, 200, label, draw)


def test_a_chart_is_the_same_each_time_and_needs_nothing_from_outside() -> None:
    svg = picture()
    assert svg == picture()
    for outside in ("://", "url(", "<style", "<!--", "<image", "<script"):
        assert outside not in svg
    assert "steps</text>" in svg  # text stays text
    ids = re.findall(r' id="([^"]+)"', svg)
    assert set(ids) == set(re.findall(r'"#([^"]+)"', svg))


def test_its_colours_are_those_of_the_page_and_its_ground_is_transparent() -> None:
    svg = picture()
    assert "var(--samples, " in svg
    assert "var(--faint, " in svg
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
        "none",
        *(f"var(--{name}, {colour})" for name, colour in COLOURS.items()),
    }
    assert '<svg class="chart" viewBox="0 0 300 200"' in svg


def test_a_label_is_text() -> None:
    assert 'aria-label="&lt;b&gt; &quot;x&quot;"' in picture('<b> "x"')


def test_plain_numbers_stand_at_the_ticks_of_a_logarithmic_axis() -> None:
    ticks = {float(t) for t in re.findall(r">([\d.]+)</text>", picture())}
    assert ticks & {0.2, 0.25, 0.3, 0.35, 0.4, 0.5}


def test_charts_do_not_import_pyplot_nor_change_its_settings() -> None:
    code = (
        "import sys, matplotlib; from unblot.system.plots import STYLE, chart; "
        "settings = lambda: {k: matplotlib.rcParams[k] for k in STYLE}; before = settings(); "
        "chart(100, 100, 'x', lambda axes: axes.plot([1, 2])); "
        "print('matplotlib.pyplot' in sys.modules, before == settings())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
