"""The whole way in a real browser: data, training, drawing, editing, with reloads, and no request to another host."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

import unblot
from helpers import STUDIO_TOKEN, TINY_RUN, captioned_folder
from unblot.studio import jobs
from unblot.studio.api import Folders
from unblot.studio.app import make_app
from unblot.studio.security import redirecting
from unblot.system.folders import locked

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PAGES = ("", "train", "data", "jobs", "learn", "runs/first", "runs/first/draw", "runs/first/edit", "runs/first/measure")
WAIT = 120_000  # milliseconds, of a command on a busy machine


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a studio with a trained run, and its folder."""
    root = tmp_path_factory.mktemp("studio")
    unblot.train("digits", out=root / "first", quiet=True, **{**TINY_RUN, "preview_every": 2})
    config = uvicorn.Config(
        make_app(Folders(root, (root,)), STUDIO_TOKEN), port=0, log_level="critical", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/", root
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(
    browser: "playwright.Browser", studio: tuple[str, Path], request: pytest.FixtureRequest
) -> Iterator["playwright.Page"]:
    """A page that is let in, and that may neither call another host nor report an error."""
    how = getattr(request, "param", {"viewport": {"width": 1280, "height": 900}})
    context = browser.new_context(**how)
    page, wrong = context.new_page(), []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "422" not in m.text else None)
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith((studio[0], "data:", "blob:")) else wrong.append(r.url))
    page.goto(studio[0] + "?token=" + STUDIO_TOKEN)
    page.wait_for_url(studio[0])  # where the answer leads
    yield page
    context.close()
    assert not wrong


HOW = [
    {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    {"viewport": {"width": 400, "height": 800}},
]


@pytest.mark.parametrize("page", HOW, indirect=True, ids=["wide dark", "narrow light"])
def test_every_page_fits_and_can_be_used_by_all(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for name in PAGES:
        page.goto(studio[0] + name)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name
        found = [v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not found, (name, [(v["id"], [n["html"] for n in v["nodes"]]) for v in found])


def test_a_form_waits_for_its_script(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    page.route("**/studio.js", lambda route: route.fulfill(content_type="text/javascript", body=""))
    page.goto(studio[0] + "runs/first/draw")
    assert page.locator("#sample-n").is_disabled()
    assert page.locator("main button:enabled").count() == 0
    page.unroute("**/studio.js")
    page.reload()
    playwright.expect(page.locator("#sample-n")).to_be_enabled(timeout=WAIT)


def test_from_a_dropped_folder_to_a_picture(page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path) -> None:
    address, root = studio
    for i in range(12):
        (tmp_path / "pictures" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        value = np.full((8, 8), 20 * i, np.uint8)
        Image.fromarray(value).save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png")
    page.goto(address + "train")
    page.set_input_files("input[webkitdirectory]", tmp_path / "pictures")
    playwright.expect(page.locator("#data")).to_have_value(re.compile("uploads"), timeout=WAIT)
    page.fill("#out", "mine")
    page.click("summary")
    for name, value in {**TINY_RUN, "preview_every": 2, "held_out": 0.2}.items():
        page.fill(f"#train-{name}", str(value))
    page.reload()  # what was typed is still there
    assert page.input_value("#train-steps") == "4"
    page.click("button:has-text('Start')")
    page.wait_for_url("**/jobs/*")
    page.reload()
    page.wait_for_selector(".state.done", timeout=WAIT)
    assert "2 classes" in page.inner_text("main")
    page.click("text=Its pictures")
    page.fill("#sample-n", "3")
    page.fill("#sample-steps", "2")
    page.fill("#sample-label", "all")
    page.keyboard.press("Enter")
    page.wait_for_selector(".gallery img", timeout=WAIT)
    drawn = unblot.load(root / "mine").sample(3, steps=2, label="all").array
    kept = np.array(Image.open(root / "mine" / "samples" / "sample" / "000001.png"))
    assert np.array_equal(kept, drawn[1, 0])
    page.fill("#sample-steps", "9")
    page.click("text=Again with these settings")
    playwright.expect(page.locator("#sample-steps")).to_have_value("2")
    page.goto(address)
    assert re.search("mine.*finished", page.inner_text("main"), re.S)


def test_a_folder_of_many_pictures_is_sent_in_parts(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    for i in range(450):
        (tmp_path / "many" / "ab"[i > 300]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "many" / "ab"[i > 300] / f"{i}.png").write_bytes(b"%d" % i)
    page.goto(studio[0] + "data")
    parts: list[str] = []
    page.on("request", lambda r: parts.append(r.url) if r.method == "POST" else None)
    page.set_input_files("input[webkitdirectory]", tmp_path / "many")
    playwright.expect(page.locator("[data-drop] [role=status]")).to_have_text("450 files are here", timeout=WAIT)
    kept = Path(page.input_value("#data"))
    assert len(parts) == 3
    assert {path.relative_to(kept).as_posix(): path.read_bytes() for path in kept.rglob("*.png")} == {
        f"{'ab'[i > 300]}/{i}.png": b"%d" % i for i in range(450)
    }


def test_a_dropped_folder_is_kept_with_its_folders(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    names = {"cats/1.png", "cats/old/2.png", "dogs/3.png"}
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    page.goto(studio[0] + "data")
    box = page.locator("[data-drop]").bounding_box()
    driver = page.context.new_cdp_session(page)
    dragged = {"items": [], "files": [str(tmp_path / "set")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": dragged}
        driver.send("Input.dispatchDragEvent", event)
    page.wait_for_selector("text=3 files are here", timeout=WAIT)
    kept = Path(page.input_value("#data"))
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*.png")} == names


def test_hidden_files_of_a_folder_stay_where_they_are(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "._a.png", ".thumbnails/a.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "pictures" / name)
    page.goto(studio[0] + "train")
    page.set_input_files("input[webkitdirectory]", tmp_path / "pictures")
    playwright.expect(page.locator("#data")).to_have_value(re.compile("uploads"), timeout=WAIT)
    kept = Path(page.input_value("#data"))
    assert sorted(path.name for path in kept.rglob("*") if path.is_file()) == ["a.png", "b.png"]


def test_nothing_begins_with_earlier_data_while_or_after_files_are_sent(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    page.goto(studio[0] + "train?data=digits")
    held: list[playwright.Route] = []
    page.route("**/api/uploads", lambda route: held.append(route))
    start, data, files = page.locator("button:has-text('Start')"), page.locator("#data"), "input[type=file] >> nth=0"
    page.set_input_files(files, tmp_path / "a.png")
    playwright.expect(start).to_be_disabled()
    playwright.expect(data).to_have_value("")
    held[0].fulfill(status=422, json={"detail": "not so"})
    playwright.expect(page.locator("[data-drop] [role=status]")).to_have_text("not so")
    playwright.expect(start).to_be_enabled()
    playwright.expect(data).to_have_value("")
    page.unroute("**/api/uploads")
    page.set_input_files(files, tmp_path / "a.png")  # the same once more
    playwright.expect(data).to_have_value(re.compile("a.png"), timeout=WAIT)
    playwright.expect(start).to_be_enabled()


def test_what_is_too_much_is_refused_before_it_is_sent(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"1234")
    page.goto(studio[0] + "train")
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if r.method == "POST" else None)
    status = page.locator("[data-drop] [role=status]")
    for limit, most, words in (("mostFiles", 2, "3 files are too many; at most 2"), ("mostBytes", 11, "larger than")):
        page.evaluate(f"document.querySelector('main').dataset.{limit} = {most}")
        page.set_input_files("input[type=file] >> nth=0", sorted(tmp_path.glob("*.png")))
        playwright.expect(status).to_contain_text(words)
        page.evaluate(f"document.querySelector('main').dataset.{limit} = 99")
    assert not sent


def test_a_run_whose_data_was_moved_is_measured(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    page.goto(studio[0] + "runs/first/measure")
    form = page.locator("form[data-job=ema]")
    form.locator("summary").first.click()
    form.locator("#ema-data").fill("/nowhere")
    form.locator("button:has-text('Start')").click()
    playwright.expect(form.locator("[role=alert]")).to_contain_text("/nowhere", timeout=WAIT)


def test_what_people_do_with_a_live_page_stays(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    address, root = studio
    run, metrics = root / "first", root / "first" / "metrics.jsonl"
    before = metrics.read_bytes()
    slider, levels = page.locator("[data-film] input"), page.locator("details[data-with-part]")
    with locked(run):  # as a training has it
        page.goto(address + "runs/first")
        assert levels.get_attribute("open") is not None
        page.click("text=Held-out loss by noise level")
        page.focus("[data-film] input")
        page.keyboard.press("Home")
        shutil.copy(run / "samples/step_00000004.png", run / "samples/step_00000006.png")
        metrics.write_bytes(before + b'{"step": 6, "loss": 0.125, "grad_norm": 1.0}\n')
        page.wait_for_selector("text=loss 0.1250", timeout=WAIT)
        playwright.expect(slider).to_have_attribute("max", "2", timeout=WAIT)
        assert slider.input_value() == "0"
        assert slider.evaluate("one => one === document.activeElement")
        assert levels.get_attribute("open") is None
        page.keyboard.press("End")
        shutil.copy(run / "samples/step_00000004.png", run / "samples/step_00000008.png")
        playwright.expect(slider).to_have_value("3", timeout=WAIT)  # the newest, as before
        assert "step_00000008" in page.get_attribute("[data-film] img", "src")
    metrics.write_bytes(before)
    for step in (6, 8):
        (run / f"samples/step_{step:08d}.png").unlink()


def test_a_log_stays_where_it_is_read_and_else_follows(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    address, root = studio
    job = jobs.add(root, "show", ["first"])
    folder = root / jobs.JOBS / job.id
    (folder / jobs.STARTED).write_text(str(os.getpid()))
    log = folder / "output.log"
    log.write_text("".join(f"line {i}\n" for i in range(200)))
    page.goto(address + "jobs/" + job.id)
    shown, at = page.locator(".log"), "log => [log.scrollTop, log.scrollHeight - log.clientHeight]"
    top, end = shown.evaluate(at)
    assert abs(top - end) < 2
    shown.evaluate("log => log.scrollTop = 40")
    for text, follows in (("more", False), ("most", True)):
        log.write_text(log.read_text() + f"{text}\n" * 3)
        playwright.expect(shown).to_contain_text(text, timeout=WAIT)
        top, end = shown.evaluate(at)
        assert abs(top - (end if follows else 40)) < 2
        shown.evaluate("log => log.scrollTop = 1e9")
    (folder / "ended.json").write_text('{"code": 0, "time": 0}')
    page.wait_for_selector(".state.done", timeout=WAIT)
    assert page.locator("button:has-text('Stop')").count() == 0


def test_a_job_is_stopped_once(
    page: "playwright.Page", studio: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, root = studio
    sent: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append(group))
    job = jobs.add(root, "show", ["first"])
    folder = root / jobs.JOBS / job.id
    (folder / jobs.STARTED).write_text("999999999")
    with locked(folder):
        page.goto(address + "jobs/" + job.id)
        page.click("button:has-text('Stop')")
        page.wait_for_selector("text=It is being stopped", timeout=WAIT)
        assert page.locator("button:has-text('Stop')").count() == 0
        (folder / "ended.json").write_text('{"code": 130, "time": 0}')
        page.wait_for_selector(".state.stopped", timeout=WAIT)
    assert sent == [999999999]


def test_a_form_is_sent_once(page: "playwright.Page", studio: tuple[str, Path]) -> None:
    page.goto(studio[0] + "train?data=digits")
    held: list[playwright.Route] = []
    page.route("**/api/jobs", lambda route: held.append(route))
    start, plan = page.locator("button:has-text('Start')"), page.locator("button:has-text('Show the plan')")
    start.click()
    for button in (start, plan):
        playwright.expect(button).to_be_disabled()
    held[0].fulfill(status=422, json={"detail": "not so"})
    playwright.expect(page.locator("form [role=alert]")).to_have_text("not so")
    playwright.expect(start).to_be_enabled()
    assert len(held) == 1


def test_a_page_of_a_file_leads_in(browser: "playwright.Browser", studio: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "open.html").write_text(redirecting(f"{studio[0]}jobs?token={STUDIO_TOKEN}"))
    page = browser.new_page()
    page.goto((tmp_path / "open.html").as_uri())
    page.wait_for_url(studio[0] + "jobs", timeout=WAIT)
    playwright.expect(page.locator("h1")).to_have_text("Jobs")
    page.close()


def test_a_picture_that_the_browser_cannot_show_is_no_error(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.tif")
    page.goto(studio[0] + "runs/first/edit")
    page.set_input_files("#picture", tmp_path / "a.tif")
    playwright.expect(page.locator("[data-taken]")).to_contain_text("a.tif: this browser shows no preview")
    page.click("button:has-text('Edit')")
    playwright.expect(page.locator("form [role=alert]")).to_contain_text("no mask can be painted without a preview")


def test_a_painted_mask_is_filled_and_the_rest_stays(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = studio
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    page.goto(address + "runs/first/edit")
    page.click("button:has-text('Edit')")
    assert page.inner_text("form [role=alert]") == "choose a picture first"
    page.set_input_files("#picture", tmp_path / "a.png")
    page.wait_for_selector("canvas")
    ring = page.locator(".ring")
    assert not ring.is_visible()
    page.focus("canvas")
    there = ring.bounding_box()
    page.keyboard.press("ArrowLeft")
    moved = ring.bounding_box()
    assert (there["x"] - moved["x"], moved["width"]) == (pytest.approx(24, abs=1), pytest.approx(2 * 24, abs=1))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.fill("#edit-n", "1")
    page.fill("#edit-steps", "2")
    page.click("button:has-text('Edit')")
    page.wait_for_selector("section[aria-label=inpaint] img", timeout=WAIT)
    made = next(path for path in (root / "first/samples/inpaint").glob("*.png") if "grid" not in path.name)
    same = np.array(Image.open(made)) == picture
    assert same[0].all()
    assert not same.all()
    assert page.evaluate(PAINTED, [4, 4]), "picture and mask are there to go on with"
    playwright.expect(page.locator("button:has-text('Edit')")).to_be_enabled()


PAINTED = "([x, y]) => brush.mask.getContext('2d').getImageData(x, y, 1, 1).data[3] > 100"


def test_a_photograph_can_be_painted_with_a_brush_of_its_size_and_fast_strokes(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((800, 1200, 3), np.uint8)).save(tmp_path / "a.png")
    page.goto(studio[0] + "runs/first/edit")
    page.set_input_files("#picture", tmp_path / "a.png")
    page.wait_for_selector("canvas")
    size, canvas = page.locator("#brush-size"), page.locator("canvas")
    assert (size.input_value(), size.get_attribute("max")) == ("150", "600")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = box["width"] / 1200
    places = ((200, 200), (1000, 200), (1000, 600))
    first, second, third = ((box["x"] + x * scale, box["y"] + y * scale) for x, y in places)
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*second)
    page.mouse.up()
    assert [page.evaluate(PAINTED, place) for place in ([200, 200], [600, 200], [1000, 200])] == [True] * 3
    page.mouse.move(*third)  # without the button
    page.mouse.down()
    page.mouse.up()
    assert page.evaluate(PAINTED, [1000, 600])
    assert not page.evaluate(PAINTED, [1000, 400])


def test_a_picture_of_the_run_is_edited_interpolated_and_drawn_again(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = studio
    samples = unblot.load(root / "first").sample(2, steps=2, seed=7)
    samples.save(root / "first/samples/own")
    page.goto(address + "runs/first/picture?path=samples/own/000001.png")
    page.click("text=Again with its settings")
    playwright.expect(page.locator("form[data-job=sample] [name=seed]")).to_have_value("7")
    page.goto(address + "runs/first/picture?path=samples/own/000001.png")
    page.click("text=More like this")
    page.wait_for_selector("[data-taken]:not([hidden])")
    assert page.is_checked("[name=kind][value=variations]")
    page.check("[name=kind][value=interpolate]")
    Image.fromarray(samples.array[0, 0]).save(tmp_path / "a.png")
    page.set_input_files("#other", tmp_path / "a.png")
    page.fill("#edit-n", "3")
    page.fill("#edit-steps", "2")
    page.click("button:has-text('Edit')")
    page.wait_for_selector("section[aria-label=interpolate] img", timeout=WAIT)
    assert len([path for path in (root / "first/samples/interpolate").glob("*.png") if "grid" not in path.name]) == 3


def test_what_was_chosen_stays_after_a_result_and_over_a_reload(
    page: "playwright.Page", studio: tuple[str, Path]
) -> None:
    page.goto(studio[0] + "runs/first/draw")
    number = page.locator("#sample-n")
    playwright.expect(number).to_have_attribute("placeholder", "16")
    page.select_option("#as", "film")
    playwright.expect(number).to_have_attribute("placeholder", "4")
    assert "(default: 4)" in page.inner_text("#sample-n-help")
    page.click("summary")
    assert page.locator("#sample-guidance_low").is_visible()
    assert not page.locator("#sample-batch_size").is_visible(), "which a film does not take"
    page.fill("#sample-n", "2")
    page.fill("#sample-steps", "2")
    page.evaluate("document.title = 'the same page'")
    page.click("button:has-text('Draw')")
    page.wait_for_selector("section[aria-label=film] img", timeout=WAIT)
    playwright.expect(page.locator("button:has-text('Draw')")).to_be_enabled()
    assert page.title() == "the same page"
    page.reload()
    assert page.input_value("#as") == "film"
    playwright.expect(number).to_have_attribute("placeholder", "4")
    page.select_option("#as", "sample")
    page.click("summary")
    assert page.locator("#sample-batch_size").is_visible()
    page.goto(studio[0] + "runs/first/edit")
    page.check("[name=kind][value=outpaint]")
    page.reload()
    assert page.is_checked("[name=kind][value=outpaint]")
    assert page.locator("#outpaint-left").is_visible()


def test_again_draws_the_very_picture_whatever_was_typed_before(
    page: "playwright.Page", studio: tuple[str, Path]
) -> None:
    address, root = studio
    choices = {"guidance": 1.5, "guidance_low": 0.5, "autoguide": "model.safetensors", "threshold": "static"}
    drawn = unblot.load(root / "first").sample(2, steps=2, seed=7, **choices)
    drawn.save(root / "first/samples/guided")
    page.goto(address + "runs/first/draw")
    page.click("summary")
    typed = {"label": "3", "n": "3", "quality": "draft", "nfe": "9", "guidance_high": "7", "batch_size": "2"}
    for name, value in typed.items():
        page.fill(f"#sample-{name}", value)
    page.goto(address + "runs/first/picture?path=samples/guided/000001.png")
    page.click("text=Again with its settings")
    expected = dict.fromkeys(typed, "") | {"batch_size": "2", "seed": "7", "autoguide": "model.safetensors"}
    expected["label"] = str(drawn.labels[1])  # which was drawn by its share
    for name, value in expected.items():
        playwright.expect(page.locator(f"#sample-{name}")).to_have_value(value)
    page.fill("#sample-n", "2")
    page.reload()  # what is typed from then on stays
    playwright.expect(page.locator("#sample-n")).to_have_value("2")
    page.click("button:has-text('Draw')")
    page.wait_for_selector("section[aria-label=sample] img", timeout=WAIT)
    again = np.array(Image.open(root / "first/samples/sample/000001.png"))
    assert np.array_equal(again, drawn.array[1, 0])


def test_several_prompts_are_given_a_line_each_and_come_back_so(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = studio
    unblot.train(captioned_folder(tmp_path, (8, 8), ["a fox", "an owl"]), out=root / "words", quiet=True, **TINY_RUN)
    page.goto(address + "runs/words/draw")
    low = page.locator("#sample-prompt").bounding_box()["height"]
    assert low == page.locator("#sample-negative").bounding_box()["height"]
    page.fill("#sample-prompt", "an owl\n \n a fox\n")
    assert page.locator("#sample-prompt").bounding_box()["height"] > 2 * low
    page.fill("#sample-n", "2")
    page.fill("#sample-steps", "1")
    page.click("button:has-text('Draw')")
    page.wait_for_selector(".gallery img", timeout=WAIT)
    kept = json.loads((root / "words/samples/sample/manifest.json").read_text())
    assert kept["prompt"] == ["an owl", " a fox"]
    page.fill("#sample-prompt", "words typed since")
    page.click("text=Again with these settings")
    playwright.expect(page.locator("#sample-prompt")).to_have_value("an owl\n a fox")


def test_a_picture_is_continued_by_dragging_its_frame_and_sliders_move_numbers(
    page: "playwright.Page", studio: tuple[str, Path], tmp_path: Path
) -> None:
    address, root = studio
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    page.goto(address + "runs/first/edit")
    page.check("[name=kind][value=outpaint]")
    page.set_input_files("#picture", tmp_path / "a.png")
    handle = page.wait_for_selector(".handle.right")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 4 + 24 * 3, box["y"] + 20)  # a pixel of the picture is 24 of the screen's
    page.mouse.up()
    page.focus(".handle.left")
    page.keyboard.press("ArrowLeft")
    assert [page.input_value(f"#outpaint-{side}") for side in ("left", "right", "top")] == ["1", "3", ""]
    page.fill("[data-for=edit-steps]", "2")
    assert page.input_value("#edit-steps") == "2"
    page.fill("#edit-n", "1")
    page.click("button:has-text('Edit')")
    page.wait_for_selector("section[aria-label=outpaint] img", timeout=WAIT)
    made = next(path for path in (root / "first/samples/outpaint").glob("*.png") if "grid" not in path.name)
    assert Image.open(made).size == (12, 8)
