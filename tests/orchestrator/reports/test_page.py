"""The HTML report as text: one file that loads nothing, in which whatever users wrote stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from orchestrator.charts.data import Curve
from orchestrator.reports.effects import of_rounds
from orchestrator.reports.page import as_html
from tests.orchestrator.reports.samples import of_round, two_seeds


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page__is_whole_and_escaped() -> None:
    hostile = "</style><script>alert(1)</script><img src=x>"
    curves = [Curve("l1", "s4", "med", seed, (2, 4), (0.2, 0.3)) for seed in (0, 1)]
    html = as_html(of_rounds([of_round(two_seeds(), reason=hostile)]), curves)
    tags = Tags()
    tags.feed(html)

    names = [tag for tag, _ in tags.found]
    assert not {"script", "img", "link", "iframe", "object"} & set(names)
    assert names.count("svg") == 5
    assert all(
        attributes["role"] == "img" and attributes["aria-label"]
        for tag, attributes in tags.found
        if tag == "svg"
    )
    assert "finished: &lt;/style&gt;&lt;script&gt;" in html
    outside = re.sub(r'xmlns="[^"]*"', "", html)
    assert not re.search(r"https?:|url\(|@import|\bsrc=", outside.replace("src=x", ""))
    assert not [
        attributes for _, attributes in tags.found if any(name.startswith("on") for name in attributes)
    ]
    ids = [attributes["id"] for _, attributes in tags.found if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_page__every_row_of_the_report() -> None:
    html = as_html(of_rounds([of_round(two_seeds())]), [])
    assert html.count('<th scope="row"') == 1 + 5
    assert "s4: 3 variants tried" in html
    assert "+3.75 pp" in html
    assert "at_chance (s4): the baseline is not above" in html
