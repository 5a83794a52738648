"""The predecessor's records, end to end: what an independent analysis found in them is found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from db.session import Database
from orchestrator.audit import reporting
from orchestrator.audit.finding import Check, Finding
from orchestrator.audit.judging import Audit, audit
from orchestrator.history.entries import History
from orchestrator.history.importing import import_files, totals
from orchestrator.history.reading import files
from orchestrator.history.sources import of_files, of_imported
from tests.orchestrator.factories import NOW


def loudly(message: str) -> None:
    pytest.fail(f"nothing is to be skipped: {message}")


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "records"


@pytest.fixture(scope="module")
def judged(folder: Path) -> Audit:
    return audit(History.of(of_files(files([folder]), loudly)))


def only(judged: Audit, check: Check, *words: str) -> Finding:
    (found,) = [each for each in judged.findings[check] if all(word in each.text for word in words)]
    return found


def figures(finding: Finding, *names: str) -> tuple[Any, ...]:
    return tuple(finding.figures[name] for name in names)


def test_judged(judged: Audit) -> None:
    assert judged.judged == {
        "rounds": 21,
        "runs": 268,
        "measured": 244,
        "decisions": 19,
        "decisions_checked": 17,
        "ledger_rows": 495,
        "ledger_rows_with_records": 18,
    }


def test_import__all_of_it_once(database: Database, folder: Path, judged: Audit) -> None:
    paths = files([folder])
    counts = [totals(import_files(database, paths, loudly, now=NOW, strict=True)) for _ in range(2)]
    assert [(each["added"], each["known"], each["skipped"]) for each in counts] == [(782, 0, 0), (0, 782, 0)]
    assert reporting.as_json(audit(History.of(of_imported(database)))) == reporting.as_json(judged)


@pytest.mark.parametrize(
    "name", ["_round20_serial_earlystop_records.jsonl", "_round136_fastdiscover_records.jsonl"]
)
def test_import__cut_anywhere(folder: Path, tmp_path: Path, name: str) -> None:
    """A file that a crash cut: everything before the cut is read, one line at most is skipped."""
    content = (folder / name).read_bytes()
    whole = len(list(of_files([folder / name], loudly)))
    path = tmp_path / name
    for cut in range(0, len(content), 97):
        path.write_bytes(content[:cut])
        told: list[str] = []
        read = list(of_files([path], told.append))
        assert len(read) + len(told) <= whole
        assert len(read) >= content[:cut].count(b"\n")
        assert len(told) <= 1
    shutil.copy(folder / name, path)
    assert len(list(of_files([path], loudly))) == whole


@pytest.mark.parametrize(
    ("gate", "followed_up", "reversed_", "negative"),
    [
        (0.001, 237, 72, 54),
        (0.008, 237, 72, 54),
        (0.01, 224, 68, 50),
        (0.02, 157, 51, 34),
        (0.04, 89, 29, 12),
    ],
)
def test_reversals(judged: Audit, gate: float, followed_up: int, reversed_: int, negative: int) -> None:
    found = only(judged, Check.REVERSALS, "ledger: of the gains from", f"{100 * gate:+.2f} pp")
    assert figures(found, "followed_up", "reversed", "negative") == (followed_up, reversed_, negative)
    assert len(found.records) == reversed_


@pytest.mark.parametrize(
    ("family", "reversed_", "followed_up"),
    [
        ("arc_mc", 21, 47),
        ("mbpp_longctx", 12, 25),
        ("mbpp", 17, 46),
        ("hotpot", 8, 30),
        ("other", 5, 19),
        ("squad", 2, 10),
        ("protein_ss", 7, 60),
    ],
)
def test_reversals__of_families(judged: Audit, family: str, reversed_: int, followed_up: int) -> None:
    found = only(judged, Check.REVERSALS, f"ledger, {family}:")
    assert figures(found, "reversed", "followed_up") == (reversed_, followed_up)


@pytest.mark.parametrize(
    ("name", "n", "pearson", "spearman"),
    [
        ("ledger: later", 237, 0.433, 0.282),
        ("ledger, without arc_mc: later", 190, 0.335, 0.257),
        ("ledger, without exact replays: later", 195, 0.128, 0.136),
    ],
)
def test_regression(judged: Audit, name: str, n: int, pearson: float, spearman: float) -> None:
    found = only(judged, Check.REGRESSION, name)
    assert figures(found, "n", "pearson", "spearman") == (
        n,
        pytest.approx(pearson, abs=5e-4),
        pytest.approx(spearman, abs=5e-4),
    )


def test_duplicates(judged: Audit) -> None:
    rows = only(judged, Check.DUPLICATES, "ledger:", "quick rows")
    assert figures(rows, "quick_repeats", "quick", "med_repeats", "med") == (9, 495, 9, 237)
    replayed = only(judged, Check.DUPLICATES, "the med delta is the quick delta")
    assert figures(replayed, "replayed", "protein_ss", "arc_mc", "hotpot") == (42, 26, 15, 1)
    runs = only(judged, Check.DUPLICATES, "measured runs repeat")
    assert figures(runs, "repeats", "measured", "under_another_name") == (41, 244, 34)


def test_no_ops(judged: Audit) -> None:
    beyond = [each.text for each in judged.findings[Check.NO_OPS] if "it seeds none" in each.text]
    assert [text.partition(" is the baseline")[0] for text in beyond] == [
        "round 20 hotpot quick scalar_l12_norm_detach",
        "round 20 protein_ss quick scalar_l12_norm_detach",
        "round 22 protein_ss_expand quick scalar_l12_sched_cos",
    ]
    assert only(judged, Check.NO_OPS, "head_l10_strong and head_l10_clip07 are one variant")
    zero = only(judged, Check.NO_OPS, "quick deltas are exactly zero")
    assert figures(zero, "zero", "protein_contact", "arc_mc", "protein_ss", "hotpot") == (86, 32, 28, 15, 9)


def test_grids(judged: Audit) -> None:
    found = only(judged, Check.COARSE_GRID, "ledger: all 137 deltas of arc_mc")
    assert figures(found, "questions", "zero", "plus_1", "plus_2", "minus_1") == (24, 45, 36, 26, 14)
    assert figures(only(judged, Check.COARSE_GRID, "arc_mc: all 10"), "questions") == (24,)


def test_baselines(judged: Audit) -> None:
    """The large gains of rounds 20 to 29 are those of longer training."""
    found = only(judged, Check.UNMATCHED_BASELINE, "sudoku4_refine")
    assert found.figures["highest"] == pytest.approx(0.3329, abs=5e-5)
    assert only(judged, Check.UNMATCHED_BASELINE, "measured variants").figures["unmatched"] == 30


def test_labels(judged: Audit) -> None:
    mislabelled = [each for each in judged.findings[Check.LABELS] if "punc_restore_sft" in each.text]
    assert [each.figures["label"] for each in mislabelled] == ["hotpot", "squad", "arc", "mbpp"]
    assert not [each for each in judged.findings[Check.LABELS] if "the records give" in each.text]
