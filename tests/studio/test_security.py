"""Who may speak to the studio: only this machine's own pages, with the token."""

import socket
import threading
import webbrowser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from unblot.serving.guard import is_local
from unblot.studio import app as studio
from unblot.studio.api import Folders
from unblot.studio.app import DOOR, make_app
from unblot.studio.security import COOKIE

TOKEN = "t0ken-of-the-tests"


@pytest.fixture
def app(tmp_path: Path) -> TestClient:
    (tmp_path / "runs").mkdir()
    (tmp_path / "secret.png").write_bytes(b"no")
    return TestClient(make_app(Folders(tmp_path / "runs", (tmp_path / "runs",)), TOKEN), "http://127.0.0.1")


def test_without_the_token_nothing_is_said(app: TestClient) -> None:
    for path in ("/", "/api/runs", "/static/studio.js", "/openapi.json"):
        answer = app.get(path)
        assert answer.status_code == 401
        assert "open the address" in answer.text
    assert app.get("/", headers={"Cookie": f"{COOKIE.format(port=80)}=other"}).status_code == 401
    assert app.get("/api/runs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_of_the_address_becomes_a_cookie_of_this_site_alone(app: TestClient) -> None:
    answer = app.get(f"/jobs?token={TOKEN}&x=%22%3E", follow_redirects=False)
    assert 'content="0; url=/jobs?x=%22%3E"' in answer.text  # a redirect from another site brings no cookie
    cookie = answer.headers["set-cookie"].lower()
    assert "samesite=strict" in cookie
    assert "httponly" in cookie
    assert app.get("/jobs").status_code == 200
    app.cookies.clear()
    assert app.get("/?token=wrong").status_code == 401


FOREIGN = (
    *(("Host", "evil.com"), ("Host", ""), ("Host", "[bad")),
    *(("Origin", "http://evil.com"), ("Origin", "null"), ("Origin", "http://[bad")),
)


@pytest.mark.parametrize(("header", "value"), FOREIGN)
def test_foreign_names_and_origins_are_refused(app: TestClient, header: str, value: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", header: value}
    assert app.get("/api/runs", headers=headers).status_code == 403
    assert app.post("/api/jobs", json={"command": "train"}, headers=headers).status_code == 403


def test_our_own_origin_passes(app: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://127.0.0.1"}
    assert app.get("/api/runs", headers=headers).status_code == 200


TRICKS = (
    *("/api/runs/..%2f", "/api/runs/%2e%2e/files/secret.png", "/api/runs/..%2f/files/secret.png", "/api/jobs/..%2fx"),
    *("/api/jobs/%00", "/jobs/..%2f..", "/static/..%2fapp.py", "/static/%2e%2e%2fapp.py"),
)


@pytest.mark.parametrize("path", TRICKS)
def test_tricks_with_paths_find_nothing(app: TestClient, path: str) -> None:
    assert app.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code in (404, 422)


def test_every_answer_carries_the_policy(app: TestClient) -> None:
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
        policy = app.get("/", headers=headers).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_what_is_this_machine() -> None:
    assert all(map(is_local, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_local, ("0.0.0.0", "example.org", "192.168.0.2", "")))


def test_where_other_machines_are_let_in_the_token_alone_decides(tmp_path: Path) -> None:
    app = TestClient(make_app(Folders(tmp_path, (tmp_path,)), TOKEN, "0.0.0.0"), "http://10.0.0.7:8770")
    assert app.get("/api/runs").status_code == 401
    assert app.get("/api/runs", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert app.get("/api/runs", headers={"Authorization": f"Bearer {TOKEN}", "Origin": "null"}).status_code == 403


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("0.0.0.0", False), ("::", False)])
def test_pages_say_that_all_stays_on_this_machine_where_it_does(tmp_path: Path, host: str, local: bool) -> None:
    app = TestClient(make_app(Folders(tmp_path, (tmp_path,)), TOKEN, host), "http://127.0.0.1")
    for path in ("/", "/runs/other"):
        page = app.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).text
        assert ("stays on this machine" in page) is local


def test_the_address_of_what_listens_everywhere_is_one_that_others_can_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "run_until_stopped", lambda settings, place: place.close())
    said: list[str] = []
    studio.serve(tmp_path, host="0.0.0.0", port=0, browser=False, say=said.append)
    assert f"open   http://{socket.gethostname()}:" in said[-1]


def test_the_studio_serves_while_a_browser_is_open_in_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves, shown = threading.Event(), threading.Event()

    def browse(address: str) -> None:
        if serves.wait(10):
            shown.set()

    def run(settings: object, place: socket.socket) -> None:
        serves.set()
        shown.wait(10)
        place.close()

    monkeypatch.setattr(webbrowser, "open", browse)
    monkeypatch.setattr(studio, "run_until_stopped", run)
    studio.serve(tmp_path, port=0, say=lambda line: None)
    assert shown.is_set()


def test_no_process_is_told_the_token_in_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    shown = threading.Event()

    def read(address: str) -> None:
        rights = (tmp_path / DOOR).stat().st_mode & 0o077
        opened.extend((address, Path(address.removeprefix("file://")).read_text(), str(rights)))
        shown.set()

    def run(settings: object, place: socket.socket) -> None:
        assert shown.wait(10)
        place.close()

    monkeypatch.setattr(webbrowser, "open", read)
    monkeypatch.setattr(studio, "run_until_stopped", run)
    said: list[str] = []
    studio.serve(tmp_path, port=0, say=said.append)
    address, page, rights = opened
    assert rights == "0"
    token = (tmp_path / studio.TOKEN).read_text()
    assert token not in address
    assert f'{said[0].split()[1]}"' in page
    assert f"?token={token}" in said[0]
    assert not (tmp_path / DOOR).exists()
