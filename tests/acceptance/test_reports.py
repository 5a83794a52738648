"""Reports of real rounds through the command line: every form, log, manifest, documents held against them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import FSQ, Fsq, records_of, write_round
from tests.acceptance.test_serve import serving

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two rounds of two seeds each, one of them in both."""
    folder = tmp_path_factory.mktemp("reports")
    environment = {"FSQ_HOME": str(folder / "home"), "PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE"}
    for name, seeds in (("small", [0, 1]), ("more", [1, 2])):
        path = write_round(folder, round=name, seeds=seeds)
        subprocess.run([FSQ, "run", path], env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def home(folder: Path) -> Path:
    return folder / "home"


def test_report__over_rounds_counts_equal_runs_once(fsq: Fsq) -> None:
    done = fsq("report", "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = {(row["config"], row["stage"]): row for row in csv.DictReader(io.StringIO(done.stdout))}
    quick = rows["l1", "quick"]
    runs = {
        r["seed"]: r["d_acc"]
        for r in [*records_of(fsq), *records_of(fsq, "more")]
        if (r["config"], r["stage"]) == ("l1", "quick")
    }
    assert set(runs) == {0, 1, 2}
    assert float(quick["d_acc"]) == pytest.approx(sum(runs.values()) / 3)
    assert (quick["n_runs"], quick["repeats"], quick["seeds"]) == ("3", "1", "0 1 2")
    assert (quick["rounds"], quick["n_tried"]) == ("small more", "2")
    assert float(quick["d_acc_low"]) <= float(quick["d_acc"]) <= float(quick["d_acc_high"])
    assert 0 < float(quick["p_value"]) <= float(quick["q_value"]) <= 1
    assert rows["noop", "quick"]["decisions"] == "no_op=4"


def test_report__every_form(fsq: Fsq, tmp_path: Path) -> None:
    assert "2 rounds: small, more" in fsq("report").stdout
    assert "1 round: more" in fsq("report", "more", "--format", "markdown").stdout
    assert json.loads(fsq("report", "--format", "json").stdout)["rounds"] == ["small", "more"]
    page, image = tmp_path / "out" / "report.html", tmp_path / "report.png"
    done = fsq("report", "--format", "html", "-o", page, "--charts", image)
    assert done.stdout.split() == [str(page), str(image)]
    assert image.read_bytes().startswith(PNG)
    html = page.read_text()
    assert html.count("<svg") >= 4
    assert "<script" not in html
    assert "<link" not in html
    assert fsq("report", "nosuch").returncode == 3
    assert fsq("report", "--charts", tmp_path / "report.gif").returncode == 2


def test_report__what_cannot_be_drawn_holds_nothing_else_up(fsq: Fsq, tmp_path: Path) -> None:
    """Of a night in which everything failed, the log has its entry."""
    env = {"FSQ_HOME": str(tmp_path / "home")}
    fsq("run", write_round(tmp_path, round="failed", optimizer={"lr": 1e30}), env=env)
    log, chart = tmp_path / "log.md", tmp_path / "chart.svg"
    done = fsq("report", "--log", log, "--charts", chart, env=env)
    assert (done.returncode, chart.exists()) == (2, False)
    assert "there is nothing to draw yet" in done.stderr
    assert "failed" in log.read_text()


def test_report__the_server_gives_the_same(fsq: Fsq, environment: dict[str, str], tmp_path: Path) -> None:
    token = fsq("token", "create", "reader").stdout.strip()
    with serving(environment) as (url, _):
        for form in ("json", "html"):
            asked, here = (
                fsq("report", "--format", form, env=env)
                for env in ({"FSQ_SERVER": url, "FSQ_TOKEN": token}, {})
            )
            assert (asked.returncode, here.returncode) == (0, 0), asked.stderr
            assert "small" in asked.stdout
            assert asked.stdout == here.stdout


def test_log__one_entry_for_each_round(fsq: Fsq, home: Path, tmp_path: Path) -> None:
    log = home / "results" / "fsq_log.md"
    text = log.read_text()
    assert [line for line in text.splitlines() if line.startswith("<!-- fsq: begin")] == [
        "<!-- fsq: begin small -->",
        "<!-- fsq: begin more -->",
    ]
    assert "| noop | quick | 0 | - | - | - | no_op | - |" in text
    assert fsq("report", "--log", log).returncode == 0
    assert log.read_text() == text
    fsq("report", "more", "--log", tmp_path / "log.md")
    assert (tmp_path / "log.md").read_text().count("fsq: begin") == 1


def test_check_docs__with_and_without_a_manifest(fsq: Fsq, tmp_path: Path) -> None:
    record = next(r for r in records_of(fsq) if (r["config"], r["stage"], r["seed"]) == ("l1", "quick", 1))
    run = "fsq:small/s4/quick/l1/seed1"
    good, bad = tmp_path / "good.md", tmp_path / "bad.md"
    shown = f"[{100 * record['d_acc']:+.2f} pp]({run}#d_acc), [{record['best_val_loss']:.3f}]({run}#best_val_loss)"
    good.write_text(f"# Results\n\nSeed 1: {shown}; records in `_small_records.jsonl`.\n")
    bad.write_text(f"[{100 * record['d_acc'] + 1:+.2f} pp]({run}#d_acc)\n\n[x](fsq:small/s4/quick/l7)\n")
    manifest = tmp_path / "exp_manifest.json"
    assert fsq("report", "--manifest", manifest).returncode == 0
    for options in ([], ["--manifest", manifest]):
        done = fsq("check-docs", good, *options)
        assert (done.returncode, done.stdout) == (0, "3 references, and all of them agree with the records\n")
        done = fsq("check-docs", good, bad, *options)
        assert done.returncode == 1
        first, second = done.stdout.splitlines()
        assert first.startswith(f"{bad}:1: says ")
        assert second.startswith(
            f"{bad}:3: there is no result small/s4/quick/l7; the nearest is small/s4/quick/l"
        )
        done = fsq("check-docs", good, bad, "--json", *options)
        found = json.loads(done.stdout)
        assert (done.returncode, found["references"], found["findings"][1]["line"]) == (1, 5, 3)
    assert fsq("check-docs", tmp_path / "none.md").returncode == 3
    manifest.write_text("{}")
    refused = fsq("check-docs", good, "--manifest", manifest)
    assert (refused.returncode, "is no manifest of version 1" in refused.stderr) == (2, True)


def test_report__json(fsq: Fsq) -> None:
    done = fsq("report", "small", "--json")
    assert json.loads(done.stdout)
    assert done.stdout == fsq("report", "small", "--format", "json").stdout
    assert fsq("report", "small", "--json", "--format", "csv").returncode == 2


def test_manifest__its_digest_is_that_of_the_exported_records(fsq: Fsq, tmp_path: Path) -> None:

    fsq("report", "small", "--manifest", tmp_path / "m.json")
    fsq("export", "small", "-o", tmp_path)
    (entry,) = json.loads((tmp_path / "m.json").read_text())["rounds"]
    assert entry["sha256"] == hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest()


def test_run__a_log_that_somebody_damaged_is_no_fault_of_the_round(
    fsq: Fsq, folder: Path, home: Path
) -> None:
    log = home / "results" / "fsq_log.md"
    kept = log.read_bytes()
    log.write_bytes(b"\xff")
    try:
        done = fsq("run", write_round(folder, round="small", seeds=[0, 1]))
    finally:
        log.write_bytes(kept)
    assert done.returncode == 0, done.stderr
    assert "the log was not written" in done.stderr
