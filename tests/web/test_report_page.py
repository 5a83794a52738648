"""The HTML report as a file in a real Chromium: nothing is loaded, nothing runs, and axe has no complaint."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser

from orchestrator.charts.data import Curve
from orchestrator.reports import effects
from orchestrator.reports.page import as_html
from tests.orchestrator.reports.samples import of_round, two_seeds
from tests.web.conftest import HOSTILE


def test_report_page__in_a_browser(browser: Browser, tmp_path: Path) -> None:
    rounds = [of_round(two_seeds(), reason=HOSTILE), of_round(two_seeds(), "again")]
    curves = [Curve("l1", "s4", "med", seed, (2, 4), (0.2, 0.3)) for seed in (0, 1)]
    path = tmp_path / "report.html"
    path.write_text(as_html(effects.of_rounds(rounds), curves), encoding="utf-8")
    with browser.new_context(bypass_csp=True, viewport={"width": 360, "height": 800}) as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())

        assert asked == [path.as_uri()]
        assert page.title() == "Report on 2 rounds: r1, again – fsq"
        assert page.get_by_text(HOSTILE).count() == 1
        assert page.get_by_role("img").count() == 5  # funnel, time, stages, forest, curves
        assert page.locator("tbody tr").count() == 2 + 5
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        schemes: list[Literal["light", "dark"]] = ["light", "dark"]
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, f"{scheme}: {found.generate_report()}"


def test_report_page__of_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(as_html(effects.of_rounds([]), []), encoding="utf-8")
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert page.get_by_text("there is nothing to report yet").is_visible()
