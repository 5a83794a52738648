from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.session import Database
from orchestrator.charts import composed, curves, deltas, funnel, of_round, rendering
from orchestrator.charts.data import NARROW, WIDE, Curve, Delta, Funnel, TaskCurves, TaskDeltas
from orchestrator.charts.plotting import plot
from orchestrator.errors import BadInput, FsqError
from orchestrator.findings.records import records
from orchestrator.http_client import HttpClient
from orchestrator.verdicts import Verdict
from orchestrator.views import progress, shapes
from tests.orchestrator.factories import Rig, resolve

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "</text></svg><img src=x onerror=alert(1)>",
    "<![CDATA[ ]]> <!-- -- > <?php ?>",
    "&amp;&#60;&lt;script&gt; &nosuch;",
    "a\x00b\x1b[31m\ufffe\ud800",
    "datum.x; ${1+1} {{x}} '); alert('",
    "url(https://example.org/x) javascript:alert(1)",
    "ünïcode ‮ right-to-left 漢字 🜁",
    "line\nbreak\ttab",
    "x" * 100,
    "",
]


def delta(variant: str, d_acc: float | None, *, stage: str = "quick", seed: int = 0) -> Delta:
    if d_acc is None:
        return Delta(variant, stage, seed, Verdict.NO_OP, reason="computes the same as the baseline")
    verdict = Verdict.PROMOTED if d_acc >= 0.001 else Verdict.PRUNED
    return Delta(variant, stage, seed, verdict, d_acc, (d_acc - 0.002, d_acc + 0.003), "because")


def task_deltas(*found: Delta, min_delta: float = 0.001) -> TaskDeltas:
    names = tuple(dict.fromkeys(delta.variant for delta in found))
    return TaskDeltas("mbpp_fix", names, ("quick", "med", "long"), found, min_delta)


THREE = task_deltas(
    delta("scalar_l8_trainable", 0.0025),
    delta("scalar_l8_trainable", 0.0021, stage="med"),
    delta("head_l8", -0.0009),
    delta("scalar_l12_norm_detach", None),
)


def curve(arm: str, *values: float, seed: int = 0, is_running: bool = False) -> Curve:
    steps = tuple(20 * (i + 1) for i in range(len(values)))
    return Curve(arm, "mbpp_fix", "med", seed, steps, values, is_running)


def task_curves(*found: Curve, is_banded: bool = False) -> TaskCurves:
    return TaskCurves("mbpp_fix", "med", found, is_banded)


def parsed(chart: rendering.Chart) -> ElementTree.Element:
    return ElementTree.fromstring(rendering.svg(chart))  # noqa: S314 - drawn here


def elements(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return list(root.iter(f"{{{rendering.SVG}}}{tag}"))


def texts(root: ElementTree.Element) -> list[str]:
    lines = f"{{{rendering.SVG}}}tspan"
    return [
        "".join([element.text or "", *(line.text or "" for line in element.iter(lines))])
        for element in elements(root, "text")
    ]


def marks(root: ElementTree.Element) -> list[str]:
    """What each mark says when pointed at."""
    return [title.text or "" for title in elements(root, "title")]


def test_deltas__every_result_is_shown() -> None:
    root = parsed(deltas.chart(THREE))
    assert marks(root) == [
        "scalar_l8_trainable +0.25 pp (quick, seed 0): promoted. because",
        "scalar_l8_trainable +0.21 pp (med, seed 0): promoted. because",
        "head_l8 -0.09 pp (quick, seed 0): pruned. because",
        "scalar_l12_norm_detach not measured (quick, seed 0): no_op. computes the same as the baseline",
    ]
    shown = texts(root)
    assert {*THREE.variants, "no-op", "baseline", "threshold +0.10 pp", "promoted", "pruned"} <= set(shown)
    assert [shown.index(name) for name in THREE.variants] == sorted(
        shown.index(name) for name in THREE.variants
    )
    assert "delta (percentage points)" in shown


def test_deltas__stages_are_told_apart() -> None:
    long = delta("head_l8", 0.004, stage="long")
    root = parsed(deltas.chart(task_deltas(*THREE.deltas, long)))
    points = [path for path in elements(root, "path") if path.find(f"{{{rendering.SVG}}}title") is not None]
    quick, med, _, larger = points
    assert (quick.get("fill-opacity"), med.get("fill-opacity")) == ("0", "1")
    assert quick.get("d") == med.get("d") != larger.get("d")
    assert any("hollow: quick, full: med, larger: long" in text for text in texts(root))


@pytest.mark.parametrize("threshold", [0.001, 0.02, 0.0, -0.001])
def test_deltas__threshold_stands_where_the_axis_says(threshold: float) -> None:
    data = task_deltas(delta("a", 0.01), delta("b", -0.004), min_delta=threshold)
    spec = deltas.chart(data).to_dict()
    low, high = deltas.domain(data.deltas, threshold)
    root = parsed(deltas.chart(data))
    ends = [
        line
        for line in elements(root, "line")
        if line.get("x2") == "0" and line.get("stroke-width") in {"1", "1.5"}
    ]
    zero = [line for line in ends if line.get("stroke-dasharray") == "1,0"]
    dashed = [line for line in ends if line.get("stroke-dasharray") == "5,3"]
    for (line,), value in ((zero, 0.0), (dashed, 100 * threshold)):
        x = float(re.findall(r"[-\d.]+", line.get("transform", ""))[0])
        assert x == pytest.approx(spec["width"] * (value - low) / (high - low), abs=0.01)


def test_deltas__intervals_only_where_known() -> None:
    bare = Delta("b", "quick", 0, Verdict.PRUNED, 0.0)
    lines = elements(parsed(deltas.chart(task_deltas(delta("a", 0.01), bare))), "line")
    assert len([line for line in lines if line.get("stroke") in {"#009E73", "#D55E00"}]) == 1


def test_domain__an_outlier_does_not_flatten_the_rest() -> None:
    rest = [delta(f"v{i}", value) for i, value in enumerate((0.0025, -0.0009, 0.0, 0.001))]
    outlier = Delta("worst", "quick", 0, Verdict.PRUNED, -0.4, (-0.41, -0.39))
    assert deltas.domain([*rest, outlier], 0.001) == deltas.domain(rest, 0.001)
    assert "← -40.00 pp" in texts(parsed(deltas.chart(task_deltas(*rest, outlier))))
    best = Delta("best", "quick", 0, Verdict.PROMOTED, 0.4)
    assert "+40.00 pp →" in texts(parsed(deltas.chart(task_deltas(*rest, best))))


def test_domain__real_gains_are_no_outliers() -> None:
    gains = [Delta(f"v{i}", "quick", 0, Verdict.PROMOTED, v) for i, v in enumerate((0.0025, 0.08, 0.145))]
    assert deltas.domain(gains, 0.001)[1] > 14.5
    assert deltas.domain(gains[2:], 0.001)[1] > 14.5


def test_domain__all_zero_leaves_room_for_the_threshold() -> None:
    zeros = [Delta(f"v{i}", "quick", 0, Verdict.PRUNED, 0.0) for i in range(3)]
    assert deltas.domain(zeros, 0.001) == pytest.approx((-0.33, 0.33))


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(("variants", "seeds"), [(1, 1), (24, 3), (200, 1)])
def test_deltas__fit_their_width(variants: int, seeds: int, width: int) -> None:
    found = [
        delta(f"scalar_l{i}_sched_cos", i / 5e4, seed=seed) for i in range(variants) for seed in range(seeds)
    ]
    root = parsed(deltas.chart(task_deltas(*found), width))
    assert float(root.get("width", "")) <= width + 8
    assert len(marks(root)) == variants * seeds


def test_deltas__long_names_are_shown_whole() -> None:
    name = "_".join(f"layer_start={i}" for i in range(7))[:100]
    root = parsed(deltas.chart(task_deltas(delta(name, 0.1)), NARROW))
    assert name in "".join(texts(root))
    assert float(root.get("width", "")) <= NARROW + 8


def test_deltas__description_counts() -> None:
    assert deltas.description(THREE) == (
        "Change of token accuracy on task mbpp_fix, variant minus baseline of the same stage, threshold +0.10 pp. "
        "Variants: 3. Results: 4 (2 promoted, 1 pruned, 1 no_op). "
        "Highest: scalar_l8_trainable +0.25 pp (quick, seed 0). Lowest: head_l8 -0.09 pp (quick, seed 0)."
    )
    assert parsed(deltas.chart(THREE)).get("aria-label") == deltas.description(THREE)
    assert "nothing is decided yet" in deltas.description(task_deltas())


FRACTIONS = st.none() | st.floats(-1, 1)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["quick", "med"]), FRACTIONS), max_size=12))
def test_deltas__any_results_give_a_chart(found: list[tuple[str, str, float | None]]) -> None:
    data = task_deltas(*(delta(name, d, stage=stage, seed=i) for i, (name, stage, d) in enumerate(found)))
    root = parsed(deltas.chart(data))  # to_dict validates against the schema
    low, high = deltas.domain(data.deltas, data.min_delta)
    assert low < 0 < 0.1 < high
    assert len(marks(root)) >= sum(d is not None for _, _, d in found)
    assert not re.search("NaN|Infinity|undefined", ElementTree.tostring(root, encoding="unicode"))


def line_colours(chart: rendering.Chart) -> list[str | None]:
    """The colours of lines in the order in which they are drawn."""
    return [
        path.get("stroke") for path in elements(parsed(chart), "path") if path.get("stroke-width") in WEIGHTS
    ]


WEIGHTS = {"0.8", "1.7", "3", "3.5"}


def test_curves__baseline_is_grey_and_undermost() -> None:
    chart = curves.chart(
        task_curves(
            curve("head_l8", 0.2, 0.3, is_running=True), curve("l10", 0.3, 0.5), curve("baseline", 0.2, 0.4)
        )
    )
    assert line_colours(chart) == ["#767676", "#D55E00", "#0072B2"]
    root = parsed(chart)
    assert {"baseline", "head_l8 (running)", "l10", "training step", "token accuracy (%)"} <= set(texts(root))
    assert marks(root)[:2] == [
        "baseline, seed 0, step 20: 20.00%",
        "baseline, seed 0, step 40: 40.00%",
    ]


def test_curves__seeds_share_a_colour() -> None:
    runs = [
        curve(arm, 0.1, 0.2 + seed / 10, seed=seed) for arm in ("baseline", "a", "b") for seed in range(3)
    ]
    assert (
        line_colours(curves.chart(task_curves(*runs))) == ["#767676"] * 3 + ["#0072B2"] * 3 + ["#D55E00"] * 3
    )
    banded = curves.chart(task_curves(*runs, is_banded=True))
    assert line_colours(banded) == ["#767676", "#0072B2", "#D55E00"]
    assert len([path for path in elements(parsed(banded), "path") if path.get("opacity") == "0.18"]) == 3


def test_curves__many_arms() -> None:
    runs = [curve(f"v{i}", 0.1, i / 100) for i in range(24)]
    slow = curve("slow", 0.0, 0.0, is_running=True)
    shown = texts(parsed(curves.chart(task_curves(curve("baseline", 0.1), *runs, slow))))
    assert {"baseline", "19 other arms", "slow (running)", "v19", "v23"} <= set(shown)
    assert "v18" not in shown


def test_curves__more_rows_than_altair_takes_unasked() -> None:
    runs = [curve(f"v{i}", *(step / 400 for step in range(260))) for i in range(20)]
    assert len(marks(parsed(curves.chart(task_curves(*runs))))) == 5200


def test_curves__a_diverged_run_ends_where_it_has_numbers() -> None:
    data = task_curves(curve("a", 0.2, float("nan")), curve("baseline", 0.3, float("inf")))
    root = parsed(curves.chart(data))
    assert len(marks(root)) == 2
    assert "token accuracy (%)" in texts(root)
    assert curves.description(data) == (
        "Token accuracy by training step on task mbpp_fix, stage med. Arms: 2. Seeds: 1. Evaluations: 4. "
        "Last values: a 20.00%, baseline 30.00%."
    )


def test_curves__without_numbers() -> None:
    data = task_curves(curve("baseline", float("nan")))
    assert marks(parsed(curves.chart(data))) == []
    assert curves.description(data).endswith("Seeds: 1. Evaluations: 1.")


def test_funnel__numbers_are_written() -> None:
    data = Funnel(
        "round21", planned=40, cached=6, run=30, unmeasured=2, pruned=17, rejected=4, promoted=9, confirmed=3
    )
    root = parsed(funnel.chart(data))
    assert texts(root)[:16] == [
        "planned", "cached", "run", "unmeasured", "pruned", "rejected", "promoted", "confirmed",
        "40", "6", "30", "2", "17", "4", "9", "3",
    ]  # fmt: skip
    assert root.get("aria-label") == (
        "Round round21: 40 planned, 6 cached, 30 run, 2 unmeasured, 17 pruned, 4 rejected, 9 promoted, 3 confirmed."
    )
    empty = texts(parsed(funnel.chart(Funnel("empty", 0, 0, 0, 0, 0, 0, 0, 0))))
    assert empty[8:16] == ["0"] * 8


def test_funnel__of_counts() -> None:
    outcomes = {"ok": 5, "diverged": 1, "cached": 2, "cancelled": 3, "build_failed": 1}
    verdicts = {"quick": {"promoted": 3, "pruned": 2}, "med": {"promoted": 1, "rejected": 2}}
    far = shapes.Funnel(planned=20, done=12, cached=2, pruned=2, rejected=2, promoted=1, confirmed=0)
    found = shapes.RoundView.model_construct(round="r", stages=("quick", "med"), funnel=far)
    assert Funnel.of(found, outcomes, verdicts) == Funnel("r", 20, 2, 6, 4, 2, 2, 1, 0)
    assert Funnel.of(found, {}, {"quick": {"promoted": 3}}).promoted == 0


def test_svg__follows_the_page() -> None:
    root = parsed(composed.chart("All.", [THREE, task_curves(curve("baseline", 0.1, 0.2))], WIDE))
    assert root.get("role") == "img"
    assert (root.get("aria-label") or "").startswith("Change of token accuracy")
    assert "All." in texts(root)
    assert elements(root, "rect") == []  # no background
    assert {text.get("fill") for text in elements(root, "text")} == {"currentColor"}
    attributes = [name for element in root.iter() for name in element.attrib]
    assert not {"id", "style", "class_", "href"} & {name.rpartition("}")[2] for name in attributes}
    assert not any(name.startswith("on") for name in attributes)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "path", "line", "text", "tspan", "title"}


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_composed__fits_its_width(width: int) -> None:
    parts: list[TaskDeltas | TaskCurves] = [
        THREE,
        task_curves(
            curve("scalar_l8_trainable", 0.1, 0.2), curve("scalar_l10_sched_cos", 0.2), is_banded=True
        ),
        task_deltas(delta("a_much_longer_name_of_a_variant", 0.01)),
    ]
    assert float(parsed(composed.chart("All.", parts, width)).get("width", "")) <= width + 8


@pytest.fixture(scope="module")
def plain_tags() -> set[str]:
    """What a chart is made of whose texts are harmless."""
    parts: list[TaskDeltas | TaskCurves] = [
        TaskDeltas("t", ("v",), ("s",), (Delta("v", "s", 0, Verdict.PRUNED, 0.1),), 0.001),
        task_curves(curve("v", 0.1)),
    ]
    return {element.tag for element in parsed(composed.chart("", parts, WIDE)).iter()}


@pytest.mark.parametrize("text", HOSTILE)
def test_svg__text_stays_text(text: str, plain_tags: set[str]) -> None:
    found = (
        Delta(text, text, 0, Verdict.PRUNED, 0.1, None, text),
        Delta(text, text, 0, Verdict.UNDECIDED, reason=text),
    )
    parts: list[TaskDeltas | TaskCurves] = [
        TaskDeltas(text, (text,), (text,), found, 0.001),
        TaskCurves(text, text, (Curve(text, text, text, 0, (1, 2), (0.1, 0.2)),)),
    ]
    drawn = rendering.svg(composed.chart(text, parts, WIDE))
    root = ElementTree.fromstring(drawn)  # noqa: S314 - drawn here
    assert {element.tag for element in root.iter()} <= plain_tags | {f"{{{rendering.SVG}}}tspan"}
    assert "<script" not in drawn
    assert "<img" not in drawn
    drawn.encode()


class Page(HTMLParser):
    """What a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.loaded: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in {"src", "href", "data", "srcset"}]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and data.strip():
            self.scripts.append(data)


@pytest.mark.parametrize("text", HOSTILE)
def test_write__html_is_one_page_that_loads_nothing(tmp_path: Path, text: str) -> None:
    found = Delta(text, "quick", 0, Verdict.PRUNED, 0.1, None, text)
    path = tmp_path / "chart.html"
    rendering.write(deltas.chart(TaskDeltas(text, (text,), ("quick",), (found,), 0.001)), path)
    page = Page()
    page.feed(path.read_text())
    assert page.tags == ["html", "head", "meta", "meta", "title", "script", "body", "div", "script"]
    assert page.loaded == []
    library, call = page.scripts
    assert len(library) > 100_000
    spec, _ = json.JSONDecoder().raw_decode(call.partition(", ")[2])
    assert "url" not in json.dumps({name: value for name, value in spec.items() if name == "data"})
    assert "</script" not in library.lower()


def test_write__png(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chart.PNG"
    rendering.write(deltas.chart(THREE), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, _ = struct.unpack(">II", content[16:24])
    root = parsed(deltas.chart(THREE))
    assert width == 2 * float(root.get("width", ""))
    assert [file.name for file in path.parent.iterdir()] == ["chart.PNG"]


def test_write__svg_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "chart.svg"
    rendering.write(deltas.chart(THREE), path)
    root = ElementTree.parse(path).getroot()  # noqa: S314 - drawn here
    assert root.get("aria-label") == deltas.description(THREE)
    assert elements(root, "rect")[0].get("fill") == "white"
    assert "currentColor" not in path.read_text()


@pytest.mark.parametrize("name", ["chart.pdf", "chart", "png"])
def test_write__other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(FsqError, match=r"\.png, \.svg or \.html"):
        rendering.write(deltas.chart(THREE), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_write__cannot(tmp_path: Path) -> None:
    taken, file = tmp_path / "chart.svg", tmp_path / "file"
    taken.mkdir()
    file.touch()
    for path in (taken, file / "chart.svg", file / "new" / "chart.svg"):
        with pytest.raises(BadInput, match="cannot be written"):
            rendering.write(deltas.chart(THREE), path)
    assert set(tmp_path.iterdir()) == {taken, file}


def test_plot__looks_at_the_path_before_anything_is_asked_for(tmp_path: Path) -> None:
    taken = tmp_path / "chart.svg"
    taken.mkdir()
    with pytest.raises(BadInput, match="it is a folder"):
        plot(HttpClient("http://127.0.0.1:1", None), "r1", taken)  # where no server is


def test_of_round__real_records(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.1})
    found = list(records(database, "r1"))
    data = of_round.deltas_of("s4", found, 0.001)
    assert (data.variants, data.stages) == (("l1", "l2", "noop"), ("quick", "med"))
    assert [(d.variant, d.stage, d.verdict, d.d_acc) for d in data.deltas] == [
        ("l1", "quick", Verdict.PROMOTED, 0.3),
        ("l1", "med", Verdict.REJECTED, -0.1),
        ("l2", "quick", Verdict.PRUNED, 0.0),
        ("noop", "quick", Verdict.NO_OP, None),
    ]
    runs = [
        Curve(arm, "s4", stage, 0, (2, 4), (0.1, 0.2))
        for arm in ("l1", "baseline")
        for stage in ("quick", "med")
    ]
    shown = of_round.curves_of("s4", found, runs)
    assert shown is not None
    assert (shown.stage, [c.arm for c in shown.curves], shown.is_banded) == ("med", ["baseline", "l1"], False)
    with database.read() as session:
        view = progress.round_(session, "r1")
    chart = of_round.chart(view, found, runs)
    root = parsed(chart)
    assert (root.get("aria-label") or "").startswith(
        "Round r1: 6 planned, 0 cached, 5 run, 0 unmeasured, 1 pruned, 1 rejected, 0 promoted, 0 confirmed. Change of"
    )
    assert (texts(root).count("r1"), texts(root).count("s4")) == (1, 2)
    rendering.write(chart, tmp_path / "r1.html")
    assert "<title>r1</title>" in (tmp_path / "r1.html").read_text()


def test_of_round__nothing_yet(database: Database, tmp_path: Path) -> None:
    Rig(database).submit(resolve(tmp_path))
    with database.read() as session:
        view = progress.round_(session, "r1")
    with pytest.raises(BadInput, match="round r1 has no decisions and no evaluations"):
        of_round.chart(view, [], [])


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_charts__without_a_title_say_what_they_show(width: int) -> None:
    runs = task_curves(curve("baseline", 0.1, 0.2))
    for chart, name, words in (
        (deltas.chart(THREE, width, is_titled=False), "mbpp_fix", "token accuracy, variant"),
        (curves.chart(runs, width, is_titled=False), "mbpp_fix", "token accuracy at stage med"),
        (funnel.chart(Funnel("r9", 1, 0, 1, 0, 0, 0, 0, 0), width, is_titled=False), "r9", "jobs: planned"),
    ):
        shown = texts(parsed(chart))
        assert name not in shown
        assert any(words in text for text in shown)


def test_of_round__importing_it_is_cheap() -> None:
    code = (
        "import sys, orchestrator.charts.of_round, orchestrator.charts.rendering; print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not re.search("'(altair|vl_convert|torch)'", done.stdout)
