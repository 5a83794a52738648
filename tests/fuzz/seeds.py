"""Valid input of every kind, small, for fuzzers to start from; and what parsers are known to stumble over."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from safetensors.torch import save

from model.initialise import random_state_dict
from model.shapes import ModelShape
from tasks.builtin.sudoku_puzzles import random_board

SHAPE = ModelShape.random(2, 8, 5, head_size=4)

ROUND_YAML = b"""\
round: night_{date}
model: {checkpoint: {random: {layers: 2, dim: 64, vocab: 256}}, tokenizer: bytes}
stages:
  - {name: quick, steps: 10, eval_every: 5}
  - {name: med, steps: 20, seconds: 5.0}
prune: {rule: threshold, min_delta: 0.001, metric: best_val_tok_acc}
seeds: [0, 1]
optimizer: {lr: 3.0e-5, weight_decay: 0.01, grad_clip: 1.0}
tasks:
  s4: {kind: sudoku, size: 4, blanks: 4, train: 3, val: 2, batch_size: 2}
variants: [head_l8, {mine: {layer_start: 1, gate: head}}, {grid: {layer_start: [1, 2], alpha_init: [-2, -3]}}]
"""

ROUND = {
    "round": "r1",
    "model": {"random": {"layers": 2, "dim": 64, "vocab": 256}, "tokenizer": "bytes"},
    "stages": [{"name": "quick", "steps": 4}],
    "tasks": {
        "p": {
            "kind": "punctuation",
            "data": {"path": "rows.jsonl"},
            "train": 2,
            "val": 1,
            "notes": {"fill": False},
        }
    },
    "variants": {"l1": {"layer_start": 1}},
}

RECORDS = b"""\
{"task":"mbpp","stage":"probe","config":"bsz","status":"ok","bsz":2,"best_val_loss":null,"run_dir":""}
{"task":"mbpp","seed":0,"stage":"quick","config":"baseline","status":"ok","best_val_loss":5.5,"best_val_tok_acc":0.25}
{"task":"mbpp","seed":0,"stage":"quick","config":"scalar_l12","status":"ok","best_val_loss":5.5,"best_val_tok_acc":0.25}
{"task":"mbpp","seed":0,"stage":"med","config":"head_l8","mode":"prompt_fs","status":"fail","error":"Error: x\\ny"}
{"round":107,"task":"arc_mc_seed0","stage":"quick_decision","config":"head_l8","status":"pruned",\
"reason":"quick_drop -4.17pp < -0.50pp","cooldown_until_round":115,\
"signature":"{\\"seed\\": 0, \\"ds\\": \\"ai2_arc\\"}"}
{"round":"r1","task":"s4","stage":"decision","decided_stage":"med","config":"l1","seed":0,"status":"promoted",\
"reason":"+0.25 pp reaches +0.10 pp","d_acc":0.0025,"caveats":["single_seed"]}
"""
LEDGER = b"""\
round,task,family,quick_delta_pp,quick_cfg,med_delta_pp,med_cfg,reversal_qpos_mnonpos
77,arc_seed0_discovery,other,0.999160075593196,scalar_l8_train8e5,-0.2932230601028249,scalar_l8_train8e5,True
100,arc_seed0_headprobe,other,0.999160075593196,scalar_l8_train8e5,-0.2932230601028249,scalar_l8_train8e5,True
78,wiki_seed0,wiki,0.0,head_l8,,,False
"""

NASTY = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b'"\\ud800"', b"\xc2\x85", b"\xe2\x80\xa8",
    b"\x1b[31m", b"\r\n", b"\r", b"\n\n", b"\t", b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system ",
    b"!x ", b"? ", b"- ", b"---\n", b"...\n", b"%YAML 9.9\n", b"#", b"| ", b">", b"{", b"}", b"[", b"]", b"[" * 50,
    b"{a: " * 30, b'{"a":' * 30, b'"', b"'", b"=", b"~", b".nan", b".inf", b"NaN", b"-Infinity", b"1e999", b"-0.0",
    b"-1", b"0", b"9" * 30, b"9" * 500, b"9" * 5000, b"1.5", b"true", b"null", b"''", b"[]", b"{}",
    b"x" * 3000, "\u202e𝄞ß".encode(), b"PK\x05\x06", b"\x7f\xff\xff\xff\xff\xff\xff\xff",
)  # fmt: skip


def rows_of(kind: str, count: int = 12) -> list[dict[str, Any]]:
    """Rows that a built-in kind can use; the first dozen are for training and for validation, by number."""
    return [_ROWS[kind](number) for number in range(20, 20 + count)]


def jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **options)
    return file.getvalue()


def state_dict() -> dict[str, torch.Tensor]:
    """A whole, tiny model."""
    return random_state_dict(SHAPE, seed=0)


def safetensors_file() -> bytes:
    return save(state_dict())


def torch_file(content: object = None, *, zipped: bool = True) -> bytes:
    """What `torch.save` writes; by default a whole model."""
    file = io.BytesIO()
    torch.save(state_dict() if content is None else content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def new_folder() -> Path:
    """A folder in memory where there is one: fuzzers write a file for every input."""
    memory = Path("/dev/shm")  # noqa: S108  (the folder below it is new and has a random name)
    parent = memory if memory.is_dir() else None
    return Path(tempfile.mkdtemp(prefix="fsq-fuzz-", dir=parent))


def _mbpp(number: int) -> dict[str, Any]:
    code = f"def add_{number}(x):\n    return x + {number}"
    task_id = number + (11 if number % 3 else 601)
    return {
        "text": f"Add {number} to a number.",
        "code": code,
        "task_id": task_id,
        "test_list": ["assert True"],
    }


def _arc(number: int) -> dict[str, Any]:
    choices = {"text": [f"{number} plus {more}" for more in range(4)], "label": list("ABCD")}
    return {"id": f"q{number}", "question": f"Which is {number}?", "choices": choices, "answerKey": "B"}


def _hotpotqa(number: int) -> dict[str, Any]:
    context = {"title": ["Town", "River"], "sentences": [["A town.", f" It has {number} houses."], ["Wet."]]}
    return {
        "id": f"h{number}",
        "question": f"How many in {number}?",
        "answer": f"{number}",
        "context": context,
    }


def _protein_ss(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    structure = "".join(rng.choices("HBEGITS~", k=12))
    return {"PDB_ID": f"P{number}", "Sequence": _sequence(rng), "Secondary_structure": structure}


def _protein_contact(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    points = [[round(rng.uniform(0, 9), 1) for _ in range(3)] for _ in range(12)]
    return {"name": f"C{number}", "seq": _sequence(rng), "tertiary": points, "valid_mask": "+" * 12}


def _sequence(rng: random.Random) -> str:
    return "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=12))


def _punctuation(number: int) -> dict[str, Any]:
    return {"text": f"In {1000 + number}, Ann said: “Go on!” (Nobody of the {number} others did, sadly.)"}


def _sudoku(number: int) -> dict[str, Any]:
    return {"puzzle": random_board(4, random.Random(number)), "id": number}


_ROWS = {
    "arc": _arc,
    "hotpotqa": _hotpotqa,
    "mbpp": _mbpp,
    "protein_contact": _protein_contact,
    "protein_ss": _protein_ss,
    "punctuation": _punctuation,
    "sudoku": _sudoku,
}

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "arc": {},
    "hotpotqa": {"min_prompt_tokens": 0, "max_prompt_tokens": 60},
    "mbpp": {"min_prompt_tokens": 0, "max_prompt_tokens": 300},
    "protein_contact": {"min_sequence": 8, "min_separation": 2, "pairs": 4, "min_prompt_tokens": 0},
    "protein_ss": {"min_sequence": 8, "queries": 4, "max_prompt_tokens": 400, "min_prompt_tokens": 0},
    "punctuation": {"max_prompt_tokens": 400, "min_prompt_tokens": 0},
    "sudoku": {"size": 4, "blanks": 4},
}
