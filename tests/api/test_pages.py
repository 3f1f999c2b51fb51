"""The pages for people: there, offline, and safe to open."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_only_what_is_ours(api: httpx2.Client, path: str):
    page = api.get(path)

    policy = page.headers["content-security-policy"]
    assert page.status_code == 200
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert source.startswith("/"), source  # nothing from outside: it works offline
        assert api.get(source).status_code == 200


def test_the_pages_have_nothing_inline(root: Path):
    for path in (root / "api/playground").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|style=|\son\w+=|<script>|javascript:", text), path.name


def test_what_a_prompt_says_never_becomes_markup(root: Path):
    for path in (root / "api/playground").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_a_page_that_is_known_is_not_sent_again(api: httpx2.Client):
    tag = api.get("/playground/app.js").headers["etag"]

    again = api.get("/playground/app.js", headers={"if-none-match": tag})

    assert (again.status_code, again.content) == (304, b"")


def test_only_the_pages_are_served(api: httpx2.Client):
    for path in ("/playground/../settings.py", "/playground/..%2fsettings.py", "/playground/x.js"):
        assert api.get(path).status_code == 404


def test_every_element_that_the_script_names_is_on_the_page(root: Path):
    folder = root / "api/playground"
    named = set(re.findall(r'\$\("([a-z_]+)"\)', (folder / "app.js").read_text(encoding="utf-8")))
    there = set(re.findall(r'id="([a-z_]+)"', (folder / "index.html").read_text(encoding="utf-8")))

    assert named <= there
