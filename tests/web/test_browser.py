"""The pages in a real Chromium, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from db import tokens
from db.session import Database
from orchestrator.api.access import COOKIE
from tests.orchestrator.factories import resolve, result
from tests.web.conftest import HOSTILE, Observed, OpenPage, Site

PAGES = [
    "/",
    "/rounds/done",
    "/rounds/running",
    "/rounds/done/decisions",
    "/rounds/done/jobs",
    "/rounds/running/cancel",
    "/jobs/2",
    "/workers",
]


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    expect.set_options(timeout=15_000)
    yield
    expect.set_options(timeout=5_000)


def drawn(page: Page) -> Page:
    """The page once all of its charts are there."""
    expect(page.locator("main:not([data-waiting])")).to_be_attached()
    return page


def test_reading__without_javascript(open_page: OpenPage) -> None:
    page = drawn(open_page("/", java_script_enabled=False))
    expect(page.get_by_role("heading", name="done")).to_be_visible()
    page.get_by_role("link", name="done", exact=True).click()

    drawn(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text("done finished")
    expect(page.locator("#task-s4 svg")).to_be_visible()
    expect(page.locator("#task-s4 tbody tr")).to_have_count(4)
    expect(page.locator("#task-s4 tbody tr").first).to_contain_text("l1 promoted quick 0 +30.00 pp")
    said = "One seed only, or all seeds are the same run: the spread between seeds is unknown."
    expect(page.locator("#caveats")).to_contain_text(said)
    page.locator("#task-s4 tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("s4 quick l1, seed 0 ok")


def test_round__the_running_job_beside_its_baseline(open_page: OpenPage) -> None:
    page = drawn(open_page("/rounds/running"))

    running = page.locator("#running")
    expect(running.get_by_role("link", name="s4 quick l1, seed 1")).to_be_visible()
    expect(running).to_contain_text("24.00% at step 4")
    expect(running.locator("pre")).to_contain_text("step 199 loss")
    assert running.locator(".log").evaluate("box => box.scrollTop + box.clientHeight + 2 >= box.scrollHeight")


def test_round__updates_itself(
    open_page: OpenPage, site: Site, observed: Observed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.rig.submit(resolve(tmp_path_factory.mktemp("r"), round="live", seeds=[10]))
    page = open_page("/rounds/live", viewport={"width": 900, "height": 500})
    expect(page.locator("#connection")).to_have_text("Live: this page updates itself.")
    link = page.get_by_role("link", name="Records (JSONL)")
    link.focus()
    page.mouse.wheel(0, 300)
    page.wait_for_function("() => scrollY > 100")  # a function: the page's policy lets no text be evaluated
    before = page.evaluate("scrollY")

    site.rig.run_next(result(0.2))
    site.rig.run_next(result(0.6))

    expect(page.locator("#task-s4 tbody tr")).to_have_count(1)
    expect(page.locator("#task-s4")).to_contain_text("+40.00 pp")
    expect(page.locator("#announcer")).to_contain_text(
        "s4 quick l1, seed 10: promoted: +40.00 pp reaches +0.10 pp"
    )
    expect(link).to_be_focused()
    assert page.evaluate("scrollY") == before

    site.rig.run_all({})
    expect(page.locator("h1")).to_have_text("live finished")
    expect(page.locator("#connection")).to_have_text("The round has ended.")
    assert page.title() == "live: finished – fsq"
    assert observed.complaints == []


def test_round__rests_while_nobody_looks(
    open_page: OpenPage, site: Site, observed: Observed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.rig.submit(resolve(tmp_path_factory.mktemp("r"), round="unseen", seeds=[13]))
    page = drawn(open_page("/rounds/unseen"))
    expect(page.locator("#connection")).to_have_text("Live: this page updates itself.")
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => isHidden})")

    def look(is_hidden: bool) -> None:
        hidden = "true" if is_hidden else "false"
        page.evaluate(f"window.isHidden = {hidden}; document.dispatchEvent(new Event('visibilitychange'))")

    look(is_hidden=True)
    before = len(observed.urls)
    site.rig.run_all({})
    page.wait_for_timeout(1500)
    assert len(observed.urls) == before
    look(is_hidden=False)

    expect(page.locator("h1")).to_have_text("unseen finished")
    assert observed.complaints == []


def test_list__updates_itself(
    open_page: OpenPage, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = open_page("/")
    site.rig.submit(resolve(tmp_path_factory.mktemp("r"), round="fresh", seeds=[11]))

    expect(page.get_by_role("heading", name="fresh")).to_be_visible()
    site.rig.run_all({})


@pytest.mark.parametrize("path", PAGES)
def test_page__fits_a_phone_loads_nothing_from_elsewhere_and_has_no_complaints(
    open_page: OpenPage, site: Site, observed: Observed, path: str
) -> None:
    page = drawn(open_page(path, viewport={"width": 360, "height": 740}))
    page.wait_for_load_state("load")

    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert {url for url in observed.urls if not url.startswith(site.address)} == set()
    assert observed.complaints == []


@pytest.mark.parametrize("path", PAGES)
def test_page__accessible_by_axe_light_and_dark(open_page: OpenPage, path: str) -> None:
    page = drawn(open_page(path, bypass_csp=True))
    schemes: list[Literal["light", "dark"]] = ["light", "dark"]
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"


def test_page__light_and_dark(open_page: OpenPage) -> None:
    def colours(scheme: str) -> tuple[str, str]:
        page = open_page("/", color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        return page.evaluate(f"[{style}.backgroundColor, {style}.color]")  # type: ignore[no-any-return]

    (light, ink), (dark, chalk) = colours("light"), colours("dark")

    assert light == "rgb(247, 247, 245)"
    assert dark == "rgb(20, 22, 26)"
    assert ink != chalk


def test_keyboard__skip_link_and_everything_in_reach(open_page: OpenPage) -> None:
    page = drawn(open_page("/rounds/done"))

    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()

    page = drawn(open_page("/rounds/done"))
    wanted = page.locator("a:visible, button:visible, input:visible, [tabindex='0']:visible").count()
    reached = set()
    for _ in range(wanted):
        page.keyboard.press("Tab")
        place = "[...document.querySelectorAll('*')].indexOf(document.activeElement)"
        reached.add(page.evaluate(place))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert len(reached) == wanted


def test_hostile_text__is_shown_as_text(open_page: OpenPage, observed: Observed) -> None:
    page = drawn(open_page("/rounds/odd"))

    expect(page.locator("#head .reason")).to_have_text(HOSTILE)
    page.goto("/")
    expect(page.locator(".rounds .reason")).to_have_text(HOSTILE)
    assert page.title() == "Rounds – fsq"
    assert observed.complaints == []


def test_cancel__asks_first(
    open_page: OpenPage, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.rig.submit(resolve(tmp_path_factory.mktemp("r"), round="doomed", seeds=[12]))
    page = open_page("/rounds/doomed", java_script_enabled=False)

    page.get_by_role("link", name="Cancel …").click()
    expect(page.get_by_role("heading", name="Cancel doomed?")).to_be_visible()
    page.get_by_role("link", name="No, go back").click()
    expect(page.locator("h1")).to_have_text("doomed active")
    page.get_by_role("link", name="Cancel …").click()
    page.get_by_role("button", name="Yes, cancel it").click()

    expect(page.locator("h1")).to_have_text("doomed cancelled")
    expect(page.locator("#events li").first).to_contain_text("cancelled by admin")
    expect(page.get_by_role("link", name="Retry …")).to_be_visible()


def test_sign_in__and_out(open_page: OpenPage, site: Site) -> None:
    page = open_page("/rounds/done?x=1", scope=None, java_script_enabled=False)
    assert page.url == f"{site.address}/login?next=/rounds/done%3Fx%3D1"

    page.get_by_label("Token").fill("fsq_1_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text(
        "This token is not valid: it is mistyped, expired or revoked."
    )
    page.get_by_label("Token").fill(site.tokens["read"])
    page.get_by_role("button", name="Sign in").click()

    assert page.url == f"{site.address}/rounds/done?x=1"
    expect(page.locator("header")).to_contain_text("read (read)")
    cookie = next(one for one in page.context.cookies() if one.get("name") == COOKIE)
    assert (cookie.get("httpOnly"), cookie.get("sameSite"), cookie.get("secure")) == (True, "Lax", False)
    lasts = cookie.get("expires", 0) - datetime.now(UTC).timestamp()
    assert timedelta(hours=23).total_seconds() < lasts < timedelta(hours=25).total_seconds()

    page.get_by_role("button", name="Sign out").click()
    assert page.url == f"{site.address}/login"
    page.goto("/")
    assert page.url == f"{site.address}/login?next=/"


def test_expired_token__leads_to_the_form(open_page: OpenPage, site: Site) -> None:
    page = open_page("/workers")
    expect(page.get_by_role("heading", name="Workers")).to_be_visible()

    with expired(site.database, "admin"):
        page.reload()
        assert page.url == f"{site.address}/login?next=/workers"
        page.get_by_label("Token").fill(site.tokens["admin"])
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not valid")


class expired:  # noqa: N801  (reads as a context)
    """While this lasts, a token has expired."""

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name = database, name

    def __enter__(self) -> None:
        self._set(datetime.now(UTC) - timedelta(seconds=1))

    def __exit__(self, *error: object) -> None:
        self._set(datetime.now(UTC) + timedelta(days=1))

    def _set(self, at: datetime) -> None:
        with self._database.write() as session:
            next(one for one in tokens.all_of(session) if one.name == self._name).expires_at = at


def test_live__a_server_that_comes_back(open_page: OpenPage) -> None:
    page = open_page("/workers")
    said = page.locator("#connection")
    expect(said).to_have_text("Live: this page updates itself.")

    page.context.set_offline(True)
    expect(said).to_have_text("The server does not answer. Trying again.")
    page.context.set_offline(False)
    expect(said).to_have_text("Live: this page updates itself.")


@pytest.mark.parametrize("path", ["/workers", "/rounds/running"])
def test_live__an_expired_token_is_no_dead_server(open_page: OpenPage, site: Site, path: str) -> None:
    page = drawn(open_page(path))
    said = page.locator("#connection")
    expect(said).to_have_text("Live: this page updates itself.")

    with expired(site.database, "admin"):
        expect(said).to_have_text("You are signed out. Sign in", timeout=40_000)
        expect(said.get_by_role("link")).to_have_attribute("href", f"/login?next={quote(path, safe='')}")


def test_live__a_round_that_is_tried_again(
    open_page: OpenPage, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    site.rig.submit(resolve(tmp_path_factory.mktemp("r"), round="again", seeds=[14]))
    client = open_page("/rounds/again/cancel")
    client.get_by_role("button", name="Yes, cancel it").click()
    page = open_page("/rounds/again")
    expect(page.locator("#connection")).to_have_text("The round has ended.")

    client.goto("/rounds/again/retry")
    client.get_by_role("button", name="Yes, retry it").click()

    expect(page.locator("h1")).to_have_text("again active", timeout=25_000)
    site.rig.run_next(result(0.2), datetime.now(UTC))
    expect(page.locator("#events")).to_contain_text("s4 quick baseline, seed 14: ended, ok", timeout=5_000)
    site.rig.run_all({}, at=datetime.now(UTC))


def test_round__long_names_fit_a_phone(
    open_page: OpenPage, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    long = "x" * 95
    task = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}
    names = {"variants": {f"v_{long}": {"layer_start": 1}}, "tasks": {f"t_{long}": task}}
    stages = [{"name": f"s_{long}", "steps": 4, "eval_every": 2}]
    site.rig.submit(
        resolve(tmp_path_factory.mktemp("r"), round=f"r_{long}", seeds=[15], stages=stages, **names)
    )
    site.rig.run_all({})

    for path in (f"/rounds/r_{long}", "/", f"/rounds/r_{long}/jobs", f"/rounds/r_{long}/decisions"):
        page = drawn(open_page(path, viewport={"width": 360, "height": 740}))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page = drawn(open_page(f"/rounds/r_{long}", viewport={"width": 360, "height": 740}))
    outside = (
        "[...document.querySelectorAll('svg text')].filter(one => one.getBoundingClientRect().right > 360)"
    )
    assert page.evaluate(f"{outside}.map(one => one.textContent)") == []
    verdict = page.locator(f"[id='task-t_{long}'] tbody .state").first
    box = verdict.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 360


def test_missing_page__is_a_page(open_page: OpenPage) -> None:
    page = open_page("/rounds/none")

    expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    expect(page.locator("main")).to_contain_text("there is no round named 'none'")
