"""Records of every generation: what is read, what is skipped and why, and that each is stored once."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import history
from db.session import Database
from orchestrator.errors import BadInput, NotFound
from orchestrator.history import importing, reading, sources
from orchestrator.history.entries import Decision, LedgerRow, NotARecord, Run, entry_of, round_of
from orchestrator.history.importing import import_files, totals
from orchestrator.history.lines import MAX_LINE, Line, Skipped, read_lines
from orchestrator.history.reading import Found, read_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEADER = "round,task,family,quick_delta_pp,quick_cfg,med_delta_pp,med_cfg,reversal_qpos_mnonpos"
EARLY = {
    "task": "mbpp_low",
    "seed": 1,
    "stage": "quick",
    "config": "head_l8",
    "status": "ok",
    "bsz": 2,
    "best_val_loss": 5.25,
    "best_val_tok_acc": 0.125,
    "run_dir": "runs/20260221-1/mbpp_longctx_sft/prompt_fs",
}


def ignore(_: str) -> None:
    """Tells nobody."""


def write(path: Path, *lines: Any, end: str = "\n") -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + end)
    return path


def read(path: Path) -> list[Any]:
    return [line.entry if isinstance(line, Found) else line for line in read_file(path)]


def test_read_file__an_early_generation(tmp_path: Path) -> None:
    path = write(tmp_path / "_round27_seedcheck_records.jsonl", EARLY)
    expected = Run(
        source="_round27_seedcheck_records.jsonl:1",
        round="27",
        task="mbpp_low",
        stage="quick",
        config="head_l8",
        status="ok",
        seed=1,
        accuracy=0.125,
        loss=5.25,
        batch_size=2,
        run_dir="runs/20260221-1/mbpp_longctx_sft/prompt_fs",
    )
    assert read(path) == [expected]
    assert expected.trainer == "mbpp_longctx_sft"
    assert expected.is_measured


def test_read_file__a_late_generation(tmp_path: Path) -> None:
    signature = json.dumps({"seed": 3, "ds": "ai2_arc"})
    run = {"round": 136, "task": "arc_mc_seed3", "stage": "quick", "config": "baseline", "status": "ok"}
    decision = {
        "round": 136,
        "task": "arc_mc_seed3",
        "stage": "quick_decision",
        "config": "head_l8",
        "status": "pruned",
        "reason": "quick_drop -4.17pp < -0.50pp",
        "cooldown_until_round": 144,
    }
    path = write(tmp_path / "any.jsonl", run | {"signature": signature}, decision)
    first, second = read(path)
    assert (first.round, first.seed, first.signed_seed, first.dataset) == ("136", 3, 3, "ai2_arc")
    assert second == Decision(
        source="any.jsonl:2",
        round="136",
        task="arc_mc_seed3",
        stage="quick",
        config="head_l8",
        status="pruned",
        reason="quick_drop -4.17pp < -0.50pp",
        cooldown_until=144,
    )


def test_read_file__keys_of_the_embedding_rounds(tmp_path: Path) -> None:
    """Round 30 has a mode where others have a configuration, and round 31 a variant."""
    path = write(
        tmp_path / "_round31_x.jsonl",
        {"mode": "baseline", "status": "ok", "val_r1": 0.01},
        {"variant": "fs_doc_only", "status": "ok"},
    )
    assert [(run.round, run.config, run.task) for run in read(path)] == [
        ("31", "baseline", "(no task)"),
        ("31", "fs_doc_only", "(no task)"),
    ]
    assert [run.has_other_metrics for run in read(path)] == [True, False]


def test_read_file__a_scene_is_part_of_the_task(tmp_path: Path) -> None:
    path = write(tmp_path / "_round38_x.jsonl", EARLY | {"task": "punc_squad", "scene": "L768"})
    assert [run.task for run in read(path)] == ["punc_squad[L768]"]


def test_read_file__the_ledger(tmp_path: Path) -> None:
    path = write(
        tmp_path / "audit.csv",
        HEADER,
        "77,arc_seed0,other,1.25,head_l8,-0.5,head_l8,True",
        "78,wiki,other,0.0,head_l8,,,False",
        "79,x,other,many,head_l8,,,False",
        "80,y,other",
    )
    first, second, third, fourth = read(path)
    assert first == LedgerRow(
        source="audit.csv:2",
        round="77",
        task="arc_seed0",
        family="other",
        quick_delta=0.0125,
        quick_config="head_l8",
        med_delta=-0.005,
        med_config="head_l8",
        is_reversal=True,
    )
    assert (second.med_delta, second.med_config, second.is_reversal) == (None, "", False)
    assert third == Skipped("audit.csv", 4, "quick_delta_pp is 'many', expected a number")
    assert fourth == Skipped("audit.csv", 5, "3 cells, the first line names 8 columns")


def test_read_file__another_table(tmp_path: Path) -> None:
    path = write(tmp_path / "other.csv", "a,b", "1,2")
    assert [line.reason for line in read(path)] == 2 * [
        "expected the names of a ledger's columns, quick_delta_pp among them; records are read from JSON lines"
    ]


def test_files__own_tables_repeat_what_stands_beside_them(tmp_path: Path) -> None:
    table = write(
        tmp_path / "_r_records.csv", "round,task,config,variant_of", "r,t,l1,baseline", "r,t,l2,baseline"
    )
    other = write(tmp_path / "audit.csv", "round,task,quick_delta_pp")
    assert set(reading.files([tmp_path])) == {other, table}
    assert [line.reason for line in read(table)] == [
        "fsq's own table: its records are in the .jsonl that is exported beside it"
    ]
    lines = write(tmp_path / "_r_records.jsonl", EARLY)
    write(tmp_path / "audit.jsonl", EARLY)
    assert table not in reading.files([tmp_path])
    assert {lines, other} < set(reading.files([tmp_path]))


def test_read_file__a_last_line_that_was_cut(tmp_path: Path) -> None:
    text = json.dumps(EARLY)
    path = write(tmp_path / "r.jsonl", EARLY, text[: len(text) // 2], end="")
    whole, cut = read(path)
    assert isinstance(whole, Run)
    assert cut.line == 2
    assert cut.reason.startswith("the file ends within this line: not valid JSON: ")


def test_read_file__a_whole_last_line_without_its_end(tmp_path: Path) -> None:
    assert len(read(write(tmp_path / "r.jsonl", EARLY, end=""))) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1, 2]", "expected an object with the keys of a record"),
        ('"text"', "expected an object with the keys of a record"),
        ('{"a": 1}', "none of the keys of a record: stage, config"),
        ('{"stage": 3}', "stage is 3, expected text"),
        ('{"stage": "a\\u001b[31m"}', "expected a line of at most 500 characters"),
        ('{"stage": "quick", "best_val_tok_acc": 24.66}', "24.66, expected a fraction between 0 and 1"),
        ('{"stage": "quick", "best_val_loss": "low"}', "best_val_loss is 'low', expected a number"),
        ('{"stage": "quick", "best_val_loss": true}', "best_val_loss is True, expected a number"),
        ('{"round": 61.5, "stage": "quick"}', "round is 61.5, expected a whole number"),
        ('{"round": true, "stage": "quick"}', "round is True, expected a number"),
        ('{"stage": "quick", "seed": 1.5}', "seed is 1.5, expected a whole number"),
        ('{"stage": "quick", "seed": -1}', "seed is -1, expected a whole number, 0 or above"),
        ('{"stage": "quick", "seed": 1' + "0" * 300 + "}", "which is too large"),
        ('{"stage": "quick", "seed": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"stage": "quick", "stage": "med"}', "a key stands twice"),
        ('{"stage": "quick", "caveats": "single_seed"}', "expected a list of texts"),
        ("[" * 5000, "not valid JSON"),
        ('{"stage": "quick", "x": "\\ud800"}', "not valid JSON"),
    ],
)
def test_read_file__skips(tmp_path: Path, line: str, reason: str) -> None:
    kept, skipped = read(write(tmp_path / "r.jsonl", EARLY, line))
    assert isinstance(kept, Run)
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason
    assert str(skipped).startswith("r.jsonl:2: skipped: ")


def test_read_file__numbers_that_are_none(tmp_path: Path) -> None:
    """Python writes NaN into JSON: a run that diverged is a record without that number."""
    path = write(tmp_path / "r.jsonl", '{"stage": "quick", "best_val_loss": NaN, "best_val_tok_acc": 0.5}')
    (run,) = read(path)
    assert (run.loss, run.accuracy) == (None, 0.5)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({"best_val_tok_acc": 0.5}, "ok"),
        ({"best_val_tok_acc": 0.5, "status": None}, "ok"),
        ({"val_r1": 0.01}, "ok"),
        ({"best_val_tok_acc": 0.5, "status": "fail"}, "fail"),
        ({"error": "rc_nonzero"}, ""),
    ],
)
def test_entry_of__without_a_status(data: dict[str, Any], status: str) -> None:
    """A record with numbers is of a run that gave them."""
    run = entry_of({"stage": "quick", "config": "a"} | data, "27", "f:1")
    assert isinstance(run, Run)
    assert run.status == status
    assert run.is_measured == (status == "ok" and run.accuracy is not None)


def test_read_file__bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(EARLY).encode() + b"\r\n\r\n\xff\xfe{}\n")
    run, skipped = read(path)
    assert isinstance(run, Run)
    assert skipped == Skipped("r.jsonl", 3, "not UTF-8 text")


def test_read_lines__too_long() -> None:
    stream = io.BytesIO(b"a\n" + b"x" * (3 * MAX_LINE) + b"\nb\n" + b"y" * (MAX_LINE + 1))
    assert list(read_lines(stream, "f")) == [
        Line(1, b"a", True),
        Skipped("f", 2, "the line has more than 1,000,000 bytes"),
        Line(3, b"b", True),
        Skipped("f", 4, "the line has more than 1,000,000 bytes"),
    ]


@given(st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line)))
def test_read_lines__numbers_every_line(lines: list[bytes]) -> None:
    found = list(read_lines(io.BytesIO(b"\n".join(lines)), "f"))
    assert all(isinstance(line, Line) for line in found)
    assert {line.number for line in found if isinstance(line, Line)} == {
        number
        for number, line in enumerate(lines, 1)
        if (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
    }


@pytest.mark.parametrize(
    ("data", "file", "expected"),
    [
        ({"round": 79}, "x", "79"),
        ({"round": 61.0}, "x", "61"),
        ({"round": math.nan}, "_round20_x", "20"),
        ({"round": "round21_targeted"}, "_round3_x", "round21_targeted"),
        ({}, "_round20_serial_earlystop_records.jsonl", "20"),
        ({}, "_night_records.jsonl", "night"),
    ],
)
def test_round_of(data: dict[str, Any], file: str, expected: str) -> None:
    assert round_of(data, file) == expected


def test_entry_of__own_records() -> None:
    """fsq's own lines have the predecessor's keys, and more."""
    job = {
        "round": "r1",
        "task": "s4",
        "stage": "med",
        "config": "l1",
        "variant_of": "baseline",
        "seed": 2,
        "status": "cached",
        "best_val_tok_acc": 0.5,
        "n_val_tokens": 40,
        "steps": 8,
        "caveats": ["single_seed"],
        "run_dir": "r1/s4/med/l1/seed2",
    }
    run = entry_of(job, "r1", "job 7")
    assert isinstance(run, Run)
    assert run.is_own
    assert (run.is_measured, run.n_tokens, run.steps, run.caveats, run.trainer) == (
        True,
        40,
        8,
        ("single_seed",),
        "",
    )
    decision = entry_of(job | {"stage": "decision", "decided_stage": "med", "d_acc": 0.1}, "r1", "job 7")
    assert isinstance(decision, Decision)
    assert decision.is_own
    assert (decision.stage, decision.seed, decision.d_acc) == ("med", 2, 0.1)
    assert isinstance(entry_of(job | {"stage": "quick_decision"}, "r1", "job 7"), Run)  # a stage's own name


@given(
    st.dictionaries(
        st.sampled_from([*EARLY, "round", "signature", "caveats", "steps", "reason", "quick_delta_pp"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        ),
    )
)
def test_entry_of__a_record_or_one_reason(data: dict[str, Any]) -> None:
    try:
        entry = entry_of(data, round_of(data, "f"), "f:1")
    except NotARecord as error:
        assert str(error).isprintable()
    else:
        assert entry.source == "f:1"


def test_files__of_folders_in_order(tmp_path: Path) -> None:
    for name in ("_round100_x.jsonl", "_round98_x.jsonl", "notes.txt", "ledger.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "inner.jsonl").mkdir()
    found = reading.files([tmp_path, tmp_path / "ledger.csv"])
    assert [path.name for path in found] == ["_round98_x.jsonl", "_round100_x.jsonl", "ledger.csv"]


@pytest.mark.parametrize("name", ["absent.jsonl", "empty"])
def test_files__nothing_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no such file or folder|holds no file"):
        reading.files([tmp_path / name])


def importer(database: Database) -> Callable[..., dict[str, int]]:
    def run(*paths: Path, tell: Callable[[str], None] = ignore, strict: bool = False) -> dict[str, int]:
        return totals(import_files(database, paths, tell, now=NOW, strict=strict))

    return run


def test_import_files__twice_adds_nothing(database: Database, tmp_path: Path) -> None:
    run = importer(database)
    path = write(tmp_path / "_round27_x_records.jsonl", EARLY, EARLY | {"seed": 2}, "broken")
    assert run(path) == {"files": 1, "added": 2, "known": 0, "skipped": 1}
    assert run(path) == {"files": 1, "added": 0, "known": 2, "skipped": 1}

    (tmp_path / "copies").mkdir()
    grown = write(tmp_path / "copies" / path.name, EARLY | {"seed": 2}, EARLY, EARLY | {"seed": 3})
    assert run(grown) == {"files": 1, "added": 1, "known": 2, "skipped": 0}
    with database.read() as session:
        assert history.rounds(session) == {"27": 3}


def test_import_files__strict_stores_nothing(database: Database, tmp_path: Path) -> None:
    told: list[str] = []
    good = write(tmp_path / "_round1_records.jsonl", EARLY)
    bad = write(tmp_path / "_round2_records.jsonl", EARLY, "broken")
    with pytest.raises(BadInput, match="nothing was imported: --strict, and 1 lines would be skipped"):
        importer(database)(good, bad, tell=told.append, strict=True)
    assert [line.partition(": ")[0] for line in told] == ["_round2_records.jsonl:2"]
    with database.read() as session:
        assert list(history.all_of(session)) == []
    assert importer(database)(good, strict=True)["added"] == 1


def test_import_files__tells_of_many_skipped_lines_in_few(database: Database, tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path / "r.jsonl", *["broken"] * 30)
    assert importer(database)(path, tell=told.append)["skipped"] == 30
    assert len(told) == importing.MOST_TOLD + 1
    assert told[-1] == "r.jsonl: 10 more lines skipped"


def test_of_imported__what_was_in_the_files(database: Database, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "_round27_x.jsonl", EARLY, '{"stage": "quick", "best_val_loss": NaN}'),
        write(tmp_path / "audit.csv", HEADER, "77,arc_seed0,other,1.25,head_l8,,,False"),
    ]
    importer(database)(*paths)
    assert list(sources.of_imported(database)) == list(sources.of_files(paths, ignore))
    assert [entry.round for entry in sources.of_imported(database, ["77"])] == ["77"]
    with pytest.raises(NotFound, match="no records of a round '5' were imported"):
        list(sources.of_imported(database, ["77", "5"]))


def test_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there", "night", "night.jsonl"):
        (tmp_path / name).write_text("")
    rounds = Mock(return_value={"night", "night.jsonl", "a/b"})
    words = ["round21", "a/b", "./night", "gone.jsonl", "night.jsonl"]
    assert sources.told_apart(words, rounds) == (
        [Path("a/b"), Path("night"), Path("gone.jsonl"), Path("night.jsonl")],
        ["round21"],
    )
    rounds.assert_not_called()
    assert sources.told_apart(["there", "night"], rounds) == ([Path("there")], ["night"])
    rounds.assert_called_once()
