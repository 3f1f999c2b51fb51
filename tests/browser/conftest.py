"""A real Chromium, an API and a worker process on a fake engine: what the playground is seen in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.api.conftest import api_server, api_settings, served
from tests.helpers import tool_missing
from tests.queue.making import QUICK
from tests.queue.worker_process import worker_process

__all__ = ["api_server", "api_settings", "served"]
INSTALL = "no Chromium: `apt install chromium`, or `python -m playwright install chromium`"
# containers have no user namespaces and a small /dev/shm
expect.set_options(timeout=30_000)  # a busy machine is no reason to fail
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Playwright's own Chromium, or the system's.

    No longer than a module: while Playwright runs, its event loop counts as running in this
    thread, and every later test that calls `asyncio.run` was refused (27 of them, in CI).
    """
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = own if own.exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if path is None:
            tool_missing(INSTALL)
        try:
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:
            tool_missing(f"{path} does not start: {str(error)[:300]}")
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said against us; a test ends with none."""
    return []


@pytest.fixture
def page(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """A page of 1280 x 800, that notes every error and every breach of the policy."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        yield watched(context, complaints)


@pytest.fixture
def telephone(browser: Browser, complaints: list[str]) -> Iterator[Page]:
    """The same, of 360 x 740, under a thumb."""
    small = {"width": 360, "height": 740}
    with browser.new_context(viewport=small, has_touch=True, is_mobile=True) as context:
        yield watched(context, complaints)


def watched(context: BrowserContext, complaints: list[str]) -> Page:
    """A new page whose complaints are noted."""
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on(
        "console",
        lambda said: said.type in ("error", "warning") and complaints.append(said.text),
    )
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    return page


@pytest.fixture
def pressman(redis_url: str, s3_settings: dict[str, str]) -> Iterator[None]:
    """A worker: 20 ms a step."""
    shared = {f"PRINTWORKS_{name.upper()}": value for name, value in s3_settings.items()}
    environ = {"PRINTWORKS_REDIS_URL": redis_url, **shared, **QUICK}
    with worker_process(environ, step_s=0.02):
        yield
