"""The playground as people meet it: typed into, watched, by keys alone, on a telephone (T58)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from api.settings import ApiSettings
from jobs.store.api_keys import make_key
from tests.api.serving import Served, serving
from tests.helpers import wait_until

PROMPT = "a red bicycle on a cobblestone street"


@pytest.fixture(autouse=True)
def no_complaints(complaints: list[str]):
    yield
    assert complaints == []


def opened(page: Page, served: Served) -> Page:
    """The page, with its settings filled from the service."""
    page.goto(served.url)
    expect(page.locator("#sampler option").first).to_be_attached()
    return page


def seen(page: Page, expression: str) -> None:
    """It has become true. Asked from here: the page itself may run no string, so it cannot wait."""
    wait_until(lambda: page.evaluate(expression), expression, 30)


def printed(page: Page, count: int = 1) -> None:
    """The pictures are there, decoded."""
    expect(page.locator("#sheet a img")).to_have_count(count)
    there = "i => i.complete && i.naturalWidth"
    seen(page, f"[...document.querySelectorAll('#sheet a img')].every({there})")


def printed_of(page: Page, prompt: str) -> None:
    """That prompt's picture is there. The last one's stays until the job is sent."""
    expect(page.locator("#sheet a img")).to_have_attribute("alt", prompt)
    printed(page)


def overflowing(page: Page) -> list[str]:
    """What is wider than the window."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((e) => {
          const r = e.getBoundingClientRect();
          return r.width && r.right > document.documentElement.clientWidth + 1;
        }).map((e) => e.tagName + '#' + e.id)"""
    )


def test_a_prompt_is_typed_its_progress_is_seen_and_then_the_picture(
    page: Page, served: Served, pressman: None
):
    opened(page, served)
    page.fill("#prompt", PROMPT)
    page.click("#more summary")
    page.locator("#steps").fill("60")
    page.click("#go")

    expect(page.locator("#run")).to_be_visible()
    expect(page.locator("#stage")).to_contain_text("of 60")
    seen(page, "document.querySelector('#progress').value > 0.2")
    expect(page.locator("#stop")).to_be_visible()

    printed_of(page, PROMPT)
    expect(page.locator("#run")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("Seed")
    expect(page.locator("#jobs li")).to_have_count(1)
    expect(page.locator("#service")).to_contain_text("1 worker")


def test_the_same_settings_again_are_the_same_picture(page: Page, served: Served, pressman: None):
    opened(page, served)
    page.fill("#prompt", PROMPT)
    page.click("#go")
    printed(page)
    job = served.client.get("/v1/jobs").json()["jobs"][0]

    page.click("#reuse")
    assert page.input_value("#seed") == str(job["resolved"]["seed"][0])
    page.click("#go")
    expect(page.locator("#jobs li")).to_have_count(2)

    def both() -> list[dict[str, Any]]:
        return served.client.get("/v1/jobs").json()["jobs"]

    wait_until(lambda: all(j["status"] == "succeeded" for j in both()), "both are printed", 30)
    assert len({j["images"][0]["pixel_sha256"] for j in both()}) == 1


def test_a_picture_to_begin_with_is_sent_and_what_it_becomes_is_seen_on_the_way(
    page: Page, served: Served, pressman: None, tmp_path: Path
):
    begin = tmp_path / "begin.png"
    Image.new("RGB", (300, 200), "teal").save(begin)
    opened(page, served)
    page.fill("#prompt", PROMPT)
    page.click("#more summary")
    page.set_input_files("#image", begin)
    page.locator("#strength").fill("0.5")
    page.locator("#steps").fill("100")
    page.click("#go")

    expect(page.locator("#sheet img.preview")).to_have_count(1)
    printed_of(page, PROMPT)
    expect(page.locator("#sheet img.preview")).to_have_count(0)
    resolved = served.client.get("/v1/jobs").json()["jobs"][0]["resolved"]
    assert resolved["strength"] == 0.5
    assert resolved["image"]


def test_by_keys_alone(page: Page, served: Served, pressman: None):
    opened(page, served)
    expect(page.locator("#prompt")).to_be_focused()

    page.keyboard.type(PROMPT)
    page.keyboard.press("Tab")
    expect(page.locator("#more summary")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#negative_prompt")).to_be_focused()
    page.keyboard.press("Control+Enter")

    printed(page)
    page.locator("#jobs button").focus()
    page.keyboard.press("Enter")
    printed(page)


def test_escape_cancels_what_is_being_printed(page: Page, served: Served, pressman: None):
    opened(page, served)
    page.fill("#prompt", PROMPT)
    page.click("#more summary")
    page.locator("#steps").fill("100")
    page.locator("#n").fill("4")
    page.click("#go")
    expect(page.locator("#stage")).to_contain_text("denoising")

    page.keyboard.press("Escape")

    expect(page.locator("#sheet")).to_contain_text("Canceled")
    expect(page.locator("#go")).to_be_enabled()
    assert served.client.get("/v1/jobs").json()["jobs"][0]["status"] == "canceled"


def test_on_a_telephone_nothing_is_cut_off_and_everything_is_large_enough(
    telephone: Page, served: Served, pressman: None
):
    page = opened(telephone, served)
    page.fill("#prompt", PROMPT)
    page.tap("#more summary")
    page.locator("#n").fill("4")
    assert overflowing(page) == []
    page.tap("#go")
    printed(page, 4)

    assert overflowing(page) == []
    expect(page.locator("#sheet")).to_be_in_viewport()
    first, second = (page.locator("#sheet a img").nth(k).bounding_box() for k in range(2))
    assert first["y"] == second["y"]  # two by two, not a tower
    for target in page.locator("button:visible").all():
        assert target.bounding_box()["height"] >= 40, target.text_content()  # a thumb's


def test_an_idea_is_one_press_away(page: Page, served: Served, pressman: None):
    opened(page, served)
    idea = page.locator("#ideas button").first
    said = idea.text_content()
    idea.click()

    printed_of(page, str(said))
    assert page.input_value("#prompt") == said


def test_a_refusal_is_told_where_it_was_asked(page: Page, served: Served, complaints: list[str]):
    opened(page, served)
    page.fill("#prompt", PROMPT)
    page.click("#more summary")
    page.evaluate("document.querySelector('#n').max = 99")
    page.locator("#n").fill("70")
    with page.expect_response("**/v1/jobs") as answer:
        page.click("#go")

    assert answer.value.status == 422
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator("#problem")).to_contain_text("/n")
    expect(page.locator("#go")).to_be_enabled()
    # the browser itself notes every 4xx
    assert all("422" in said for said in complaints)
    complaints.clear()


def test_t58_a_prompt_is_never_markup(
    page: Page, served: Served, pressman: None, complaints: list[str]
):
    opened(page, served)
    for prompt in (
        "<img src=x onerror=alert(1)>",
        "</option><script>alert(2)</script>",
        "javascript:alert(3)",
        "<svg/onload=alert(4)>",
    ):
        page.fill("#prompt", prompt)
        page.click("#go")
        printed_of(page, prompt)

    expect(page.locator("#jobs li")).to_have_count(4)
    assert page.locator("#jobs script, #sheet script, #jobs svg").count() == 0
    print(f"T58: 4 prompts, executed {len(complaints)}")


def test_without_a_key_the_page_asks_for_one_and_goes_on(
    page: Page, served: Served, api_settings: ApiSettings, redis, complaints: list[str]
):
    new = make_key(tenant="acme")
    redis.hset("pw:api-keys", new.key.id, new.key.model_dump_json())
    with serving(api_settings.model_copy(update={"anonymous": "never"})) as guarded:
        page.goto(guarded.url)
        expect(page.locator("#door")).to_be_visible()
        page.fill("#key", new.secret)
        page.keyboard.press("Enter")
        expect(page.locator("#sampler option").first).to_be_attached()

        page.goto("about:blank")
    # the browser itself notes that the first question was refused; nothing else was amiss
    assert all("401" in said for said in complaints)
    complaints.clear()


def test_the_reference_is_readable_and_whole(page: Page, served: Served):
    page.goto(f"{served.url}/docs")
    operations = sum(
        len(verbs) for verbs in served.client.get("/openapi.json").json()["paths"].values()
    )

    expect(page.locator("article .verb")).to_have_count(operations)
    page.set_viewport_size({"width": 360, "height": 740})
    assert overflowing(page) == []


def test_the_policy_refuses_a_script_of_others(
    page: Page, served: Served, complaints: list[str], tmp_path: Path
):
    opened(page, served)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.ran = 1'}))"
    )

    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in said for said in complaints)
    complaints.clear()
