"""Documents held against the records: what agrees, and every way in which one does not."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.reports import manifest, references
from orchestrator.reports.references import Known, agrees
from tests.orchestrator.reports.samples import of_round, two_seeds

KNOWN = Known(manifest.of([of_round(two_seeds())]))
RUN = "fsq:r1/s4/quick/l1/seed1"


def findings(text: str) -> list[str]:
    return [str(each) for each in references.check(references.read(text, "paper.md"), KNOWN)]


@pytest.mark.parametrize(
    "text",
    [
        f"[+2.50 pp]({RUN}#d_acc)",
        f"[**+2.5 pp**]({RUN}#d_acc)",
        f"[**+2.5** `pp`]({RUN}#d_acc)",
        f"[*+2.5* pp]({RUN}#d_acc)",
        f"a gain of [2.5\npercentage points]({RUN}#d_acc)",
        f"[0.025]({RUN}#d_acc)",
        f"[52.5%]({RUN}#best_val_tok_acc)",
        f"[52.5 \\%]({RUN}#best_val_tok_acc)",
        f"[53 %]({RUN}#best_val_tok_acc)",  # half a unit to either side
        f"[52 %]({RUN}#best_val_tok_acc)",
        f"[1,600]({RUN}#tokens) tokens",
        f"[`promoted`]({RUN}#decision)",
        f"[this run]({RUN})",
        "[+3.75 pp](fsq:r1/s4/quick/l1#d_acc) over [2](fsq:r1/s4/quick/l1#n_runs) seeds",
        "[2+/0=/0-](fsq:r1/s4/quick/l1#seed_pattern), p [<0.3](fsq:r1/s4/quick/l1#p_value)",
        "[\u22121.88 pp](fsq:r1/s4/med/l1#d_acc)",
        "[no_op](fsq:r1/s4/quick/noop/seed0#decision)",
        "results/_r1_records.jsonl and `results/_summary_r1.txt`.",
        "`[+9.99 pp](fsq:no/such/thing#d_acc)` shows the form",
        "```\n[+9.99 pp](fsq:no/such/thing#d_acc)\n```\n",
        "[a page](https://example.org/fsq:x)",
        f"`{RUN[4:]}` reached 52.5 % (+2.50 pp). The threshold is +0.10 pp.",
        f"{RUN[4:]}: the baseline had 50 %.",
        f"| {RUN[4:]} | 95 % interval | +2.5 pp |\n| another | 99 % |",
        f"{RUN[4:]} and r1/s4/quick/l1/seed0 gained 2.5 and 5.00\npercentage points, [+9 pp](fsq:r1/s4)".split(
            ", ["
        )[0],
        "runs/r9/s4/quick/l1/seed1/log.txt and a/b/c/d have 3 %",
    ],
)
def test_check__agrees(text: str) -> None:
    assert findings(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[+2.60 pp]({RUN}#d_acc)", f"says +2.60 pp, but {RUN[4:]}#d_acc is 2.5 (in hundredths)"),
        (f"[\u22122.50 pp]({RUN}#d_acc)", f"says -2.50 pp, but {RUN[4:]}#d_acc is 2.5 (in hundredths)"),
        (f"[+2.50]({RUN}#d_acc)", f"says +2.50, but {RUN[4:]}#d_acc is 0.025"),
        (f"[pruned]({RUN}#decision)", f"says pruned, but {RUN[4:]}#decision is promoted"),
        ("[<0.2](fsq:r1/s4/quick/l1#p_value)", "says <0.2, but r1/s4/quick/l1#p_value is 0.25"),
        (
            f"[a lot]({RUN}#d_acc)",
            f"the text a lot of a link to {RUN[4:]}#d_acc has no number; link the one number that it is of",
        ),
        (
            f"[2.5 of 3]({RUN}#d_acc)",
            f"the text 2.5 of 3 of a link to {RUN[4:]}#d_acc has 2 numbers; link the one number that it is of",
        ),
        (f"{RUN[4:]} gained +2.60 pp.", f"says +2.60 (in hundredths), which is no figure of {RUN[4:]}"),
        (
            f"With `{RUN[4:]}` it is \u22122.5 \\%",
            f"says -2.5 (in hundredths), which is no figure of {RUN[4:]}",
        ),
        (
            "r1/s4/quik/l1/seed1",
            "there is no result r1/s4/quik/l1/seed1; the nearest is r1/s4/quick/l1/seed1",
        ),
        ("(r2/s4/quick/l1/seed1)", "there is no round r2"),
        (f"[2]({RUN}#d_ack)", f"{RUN[4:]} has no figure d_ack; the nearest is d_acc"),
        (
            "[x](fsq:r1/s4/quik/l1/seed1)",
            "there is no result r1/s4/quik/l1/seed1; the nearest is r1/s4/quick/l1/seed1",
        ),
        ("[x](fsq:r2/s4/quick/l1)", "there is no round r2"),
        ("[x](fsq:r1)", "r1 is a round; a link names a run of it, or a mean of runs"),
        ("see _summary_other.txt", "there is no round other"),
        ("[x](fsq:a b)", "this link names no result; write fsq:round/task/stage/variant/seed0#figure"),
    ],
)
def test_check__finds(text: str, message: str) -> None:
    assert findings(f"# Title\n\nText, and\n{text}\n") == [f"paper.md:4: {message}"]


@pytest.mark.parametrize(
    "written",
    [
        "gained **93** pp.",
        "gained *93* %",
        "gained `93` pp",
        "gained _93_ pp",
        "gained 93\u00a0pp",
        "gained 93\u202fpp",
        "gained 93&nbsp;pp",
        "gained $93$ pp",
        "gained\n**93 pp**",
        "gained\n+93 pp",
        "(vs. 50 %) gained 93 pp",
        "over 3 seeds etc. about 93 pp",
        "gained, e.g. in the mean, i.e. over all, 93 PP",
        "gained 93 Percentage Points",
        "gained 93 percent",
    ],
)
@pytest.mark.parametrize("mark", ["", "_", "__", "**", "`"])
def test_check__numbers_however_they_are_written(written: str, mark: str) -> None:
    (found,) = findings(f"Here {mark}{RUN[4:]}{mark} {written}")
    assert "93 (in hundredths), which is no figure of" in found


@pytest.mark.parametrize(
    "written",
    [
        "gained **2.5** pp vs. 50 percent.",
        "and so on, etc. Another had 93 %",
        "gained 2.5 pp. 93 % is of another",
        "gained 2.5 pp\n- another 93 %",
        "gained 2.5 pp\n* another 93 %",
        "gained 2.5 pp\n3. another 93 %",
    ],
)
def test_check__a_sentence_ends(written: str) -> None:
    assert findings(f"Here {RUN[4:]} {written}") == []


def test_check__runs_that_do_not_exist_however_they_are_written() -> None:
    for mark in ("_", "__", "**", "`"):
        assert len(findings(f"{mark}r1/s4/quik/l1/seed1{mark}")) == 1


@pytest.mark.parametrize("text", [f"[0.5](<{RUN}#d_acc>)", f"[ref]: {RUN}", "[2](FSQ:r1/s4)", f"<{RUN}>"])
def test_check__links_of_another_form_are_not_passed_over(text: str) -> None:
    (found,) = findings(text)
    assert found.startswith("paper.md:1: this link names no result; write fsq:")
    assert findings(f"`{text}`") == []


def test_check__csv_files_of_records() -> None:
    assert findings("_r1_records.csv") == []
    assert findings("_r9_records.csv") == ["paper.md:1: there is no round r9"]


def test_check__a_round_that_cannot_be_told_of() -> None:
    known = Known(KNOWN.manifest, {"r9": "round r9 cannot be read here"})
    document = references.read("r9/s4/quick/l1/seed1 gained 3 pp\n\n_r8_records.csv", "paper.md")
    assert [str(each) for each in references.check(document, known)] == [
        "paper.md:1: cannot be checked: round r9 cannot be read here",
        "paper.md:3: there is no round r8",
    ]


def test_check__lines_are_those_of_an_editor() -> None:
    text = f"one\x0c\u2028\x85\r\n~~~\n[2]({RUN}#d_acc)\n~~~\n[2]({RUN}#d_acc) [3]({RUN}#d_acc)\n\n[1]({RUN}#d_acc)"
    assert [one.split(":")[1] for one in findings(text)] == ["5", "5", "7"]


@example(65536.376953125, 8)
@given(st.floats(-1e6, 1e6), st.integers(0, 8))
def test_agrees__whatever_a_figure_is_rounded_to(figure: float, digits: int) -> None:
    assert agrees(Decimal(f"{figure:.{digits}f}"), figure)


@given(st.floats(-100, 100), st.integers(0, 4), st.sampled_from((-1, 1)))
def test_agrees__not_one_unit_further(figure: float, digits: int, sign: int) -> None:
    shown = Decimal(f"{figure:.{digits}f}")
    assert not agrees(shown + sign * Decimal(2) * Decimal(10) ** -digits, figure)
