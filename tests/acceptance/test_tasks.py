"""`fsq tasks show` on real data and on mistakes, and a third party's task kind, installed as users install it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Fsq, records_of, write_round

PLUG_IN = Path(__file__).resolve().parents[2] / "examples" / "task_plugin"


@pytest.mark.parametrize(
    ("kind", "file", "label"),
    [
        ("arc", "arc/arc_challenge_train.jsonl", "Options:"),
        ("hotpotqa", "hotpotqa/hotpotqa_distractor_dev.jsonl", "Question:"),
        ("mbpp", "mbpp/mbpp.jsonl", "Python solution:"),
        ("protein_contact", "protein/pdb_chains_coordinates.jsonl", "Answer bits:"),
        ("protein_ss", "protein/cb513_ss8.csv", "Queries(1-based):"),
        ("punctuation", "text/wikitext2_raw_test.txt", "Noisy transcript:"),
        ("sudoku", "sudoku/sudoku17_sample.txt", "SUDOKU9|P="),
    ],
)
def test_show__every_kind_on_its_real_file(
    fsq: Fsq, shared_data: Path, kind: str, file: str, label: str
) -> None:
    done = fsq("tasks", "show", kind, "--data", shared_data / file, "--set", "train=40", "--set", "val=6")

    assert done.returncode == 0, done.stderr
    report, _, example = done.stdout.partition("\n\n")
    assert [line.split()[0] for line in report.splitlines()] == [
        *("data", "train", "val", "prompts", "answers", "truncated", "leak", "chance", "symbol")
    ]
    assert "\ntrain      40 of " in report
    assert label in example


def test_tasks__defaults_are_values(fsq: Fsq) -> None:
    options = json.loads(fsq("tasks", "--json").stdout)["arc"]["options"]
    hub = {
        "repo": "allenai/ai2_arc",
        "config": "ARC-Challenge",
        "train_split": "train",
        "val_split": "validation",
    }
    assert options["data"]["default"] == {"hub": hub}
    assert options["train"] == {"required": False, "default": 1000, "meaning": "Number of training examples."}
    written = ", ".join(f"{key}: {value}" for key, value in hub.items())
    assert f"  data               {{hub: {{{written}}}}} Hub layout" in fsq("tasks").stdout


def test_show__json_and_options(fsq: Fsq) -> None:
    done = fsq(
        "tasks", "show", "sudoku", "--set", "size=4", "--set", "blanks=5", "--tokenizer", "bytes", "--json"
    )

    shown = json.loads(done.stdout)
    assert (shown["report"]["val"]["kept"], shown["report"]["val"]["symbols_per_answer"]) == (20, 5.0)
    assert "SUDOKU4|P=" in shown["example"]


def test_show__data_do_not_steer_the_terminal(fsq: Fsq, tmp_path: Path) -> None:
    rows = [
        {"text": f"It is {n} o'clock, \x1b]0;title\x07and all is well in the old town by the wide river."}
        for n in range(60)
    ]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    options = [
        f"--set={option}" for option in ("train=9", "val=3", "notes.fill=false", "min_prompt_tokens=0")
    ]

    shown = fsq("tasks", "show", "punctuation", "--data", data, *options)

    assert shown.returncode == 0, shown.stderr
    assert r"\x1b]0;title\x07and all is well" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mbp"], "fsq: mbp: no task kind 'mbp' (did you mean mbpp?): expected one of arc, "),
        (["mbpp", "--data", "nowhere.jsonl"], "fsq: nowhere.jsonl: no such file"),
        (["mbpp", "--set", "ordr=q_first"], "fsq: mbpp: ordr: unknown key 'ordr'; did you mean 'order'?"),
        (
            ["mbpp", "--set", "notes.fil=false"],
            "fsq: mbpp: notes.fil: unknown key 'fil'; did you mean 'fill'?",
        ),
        (["mbpp", "--set", "train"], "fsq: --set: 'train' is not KEY=VALUE"),
        (
            ["mbpp", "--set", "train=1", "--set", "train.a=1"],
            "fsq: --set: train.a: 'train' has a value already",
        ),
        (["mbpp", "--set", "train=[1"], "fsq: --set train: line 1: not valid YAML: expected ',' or ']'"),
        (["mbpp", "--set", "data=!!set {a}"], "fsq: --set data: line 1: the tag "),
        (["mbpp", "--set", "train=[&a 1, *a]"], "fsq: --set train: line 1: anchors and aliases"),
        (["mbpp", "--set", "train=1\nval: 2"], "fsq: --set: train: '1\\nval: 2' is more than one value"),
        (["mbpp", "--set", "kind=arc"], "fsq: kind: is 'mbpp' here, not 'arc'"),
        (["sudoku", "--set", "blanks=70"], "fsq: sudoku: blanks (70) exceeds 64"),
    ],
)
def test_show__mistakes(fsq: Fsq, arguments: list[str], message: str) -> None:
    done = fsq("tasks", "show", *arguments)

    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_plug_in__is_installed_listed_shown_and_run(fsq: Fsq, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", site, PLUG_IN], check=True)
    env = {"PYTHONPATH": str(site)}
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"word{'abcdefghij'[n % 10] * (n % 7 + 1)}{'xyz'[n % 3]}" for n in range(210)))

    listed = fsq("tasks", env=env).stdout
    shown = fsq("tasks", "show", "reversal", "--data", words, "--tokenizer", "bytes", env=env)
    task = {"kind": "reversal", "data": {"path": str(words)}, "train": 40, "val": 8, "batch_size": 4}
    ran = fsq("run", write_round(tmp_path, tasks={"words": task}), env=env)

    assert "\nreversal: write a word backwards" in listed
    assert "reversal" not in fsq("tasks").stdout
    assert shown.returncode == 0, shown.stderr
    assert "Backwards:" in shown.stdout
    assert ran.returncode == 0, ran.stderr
    assert {record["task"] for record in records_of(fsq, env=env)} == {"words"}


def test_plug_in__fits_in_fifty_lines() -> None:
    (module,) = PLUG_IN.glob("*.py")
    assert len(module.read_text().splitlines()) < 50
