"""Small files that ask for a lot, and large ones: each in a process with little memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator

import pytest
import torch

from tests.conftest import CHECKOUT
from tests.fuzz.seeds import jsonl, rows_of, state_dict, torch_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEBI = 1 << 20
BRACKETS = b"[" * 1_000_000

Verdict = Callable[[str, bytes, int], str]
Contents = dict[str, Callable[[], bytes]]  # made by the test that needs one: some are large


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verdict]:
    """Runs a target on content, with so many MiB of memory; `ok` where the answer was in order."""
    path = tmp_path_factory.mktemp("bounded") / "content"
    command = [sys.executable, "-m", "tests.fuzz.limited"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    ) as runner:
        assert runner.stdin is not None
        assert runner.stdout is not None

        def ask(target: str, content: bytes, megabytes: int) -> str:
            path.write_bytes(content)
            print(target, path, megabytes, file=runner.stdin, flush=True)
            return runner.stdout.readline().strip()  # type: ignore[union-attr]

        yield ask
        runner.stdin.close()
        assert runner.wait() == 0
    path.unlink()


def test_verdict__notices_too_much_memory(verdict: Verdict) -> None:
    assert verdict("data_txt", b"x\n" * 2_000_000, 50) == "ended with 1"


def laughs(levels: int = 60) -> bytes:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels))]
    return "\n".join(lines).encode()


def grids(count: int) -> bytes:
    """So many thousand variants, none of them right."""
    axis = list(range(10))
    grid = {"grid": {"alpha_init": axis, "klip": axis, "seed_scale": axis}}
    return json.dumps({"round": "r", "variants": [grid] * count}).encode()


ROUNDS_YAML: Contents = {
    "laughs": laughs,
    "brackets": lambda: BRACKETS[:999_990],
    "braces": lambda: b"{a: " * 249_000,
    "plain": lambda: b"a: " + b"x " * 90_000,
    "block": lambda: b"a: |\n" + b" x\n" * 100_000,
    "grids": lambda: grids(200),
}


@pytest.mark.parametrize("name", ROUNDS_YAML)
def test_round__yaml(verdict: Verdict, name: str) -> None:
    assert verdict("round_yaml", ROUNDS_YAML[name](), 400) == "ok"


ROUNDS_JSON: Contents = {
    "brackets": lambda: BRACKETS[:999_990],
    "braces": lambda: b'{"a":' * 199_000,
    "grids": lambda: grids(90),
}


@pytest.mark.parametrize("name", ROUNDS_JSON)
def test_round__json(verdict: Verdict, name: str) -> None:
    assert verdict("round_json", ROUNDS_JSON[name](), 400) == "ok"


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "mbpp", "notes": {"pool_size": 10**30}},
        {"kind": "mbpp", "max_prompt_tokens": 10**12},
        {"kind": "mbpp", "train": 99, "max_prompt_tokens": 999_999_999},
        {"kind": "protein_contact", "min_sequence": 8, "min_separation": 10**30},
        {"kind": "protein_contact", "min_sequence": 8, "pairs": 10**400, "pair_sampling": "balanced"},
        {"kind": "protein_ss", "min_sequence": 8, "queries": 10**12},
        {"kind": "sudoku", "size": 4, "blanks": 10**20},
        {"kind": "punctuation", "field": "text." * 10_000},
    ],
    ids=str,
)
def test_task__options(verdict: Verdict, options: dict[str, object]) -> None:
    content = json.dumps({"train": 2, "val": 1} | options).encode()
    assert verdict("task_options", content, 400) == "ok"


def deep_rows(levels: int) -> bytes:
    return b'{"text": ' + b"[" * levels + b"]" * levels + b"}\n"


@pytest.mark.parametrize("content", [BRACKETS, deep_rows(900), deep_rows(99)], ids=["open", "900", "99"])
@pytest.mark.parametrize("target", ["data_jsonl", "task_punctuation", "task_mbpp"])
def test_task__nested(verdict: Verdict, target: str, content: bytes) -> None:
    assert verdict(target, content, 400) == "ok"


@pytest.mark.parametrize(
    ("target", "size", "megabytes"), [("data_txt", 200, 1000), ("data_csv", 20, 400), ("data_jsonl", 20, 100)]
)
def test_data__long_line(verdict: Verdict, target: str, size: int, megabytes: int) -> None:
    text = b"x" * size * MEBI
    content = b'{"a": "' + text + b'"}' if target == "data_jsonl" else b"a\n" + text
    assert verdict(target, content, megabytes) == "ok"


RECORDS: Contents = {
    "line": lambda: b'{"stage": "' + b"x" * 200 * MEBI + b'"}\n',
    "cut line": lambda: b'{"stage": "quick"}\n' + b"x" * 200 * MEBI,
    "many lines": lambda: b'{"x": 1}\n' * 100_000,
    "brackets": lambda: BRACKETS[:999_990] + b"\n",
    "digits": lambda: b'{"stage": "quick", "best_val_loss": ' + b"9" * 900_000 + b"}\n",
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(verdict: Verdict, name: str) -> None:
    assert verdict("records_jsonl", RECORDS[name](), 150) == "ok"


@pytest.mark.parametrize("target", ["task_punctuation", "task_mbpp", "task_hotpotqa"])
def test_task__a_text_of_10_megabytes(verdict: Verdict, target: str) -> None:
    kind = target.removeprefix("task_")
    long = "long. " * (10 * MEBI // 6)
    rows = [row | {name: long for name in ("text", "question") if name in row} for row in rows_of(kind, 3)]
    assert verdict(target, jsonl(rows[:1]), 600) == "ok"


def test_task__coordinates_that_are_long_texts(verdict: Verdict) -> None:
    (row,) = rows_of("protein_contact", 1)
    points = [["x" * MEBI, "y", "z"], *[["a", "b", "c"]] * 4999]
    content = jsonl([row | {"seq": "A" * 5000, "tertiary": points, "valid_mask": None}])
    assert verdict("task_protein_contact", content, 400) == "ok"


def zip_bomb() -> bytes:
    """A .pth of which one tensor is compressed."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_file())) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in set(source.namelist()) - {"archive/data/0"}:
            bomb.writestr(name, source.read(name))
        with bomb.open("archive/data/0", "w", force_zip64=True) as part:
            for _ in range(300):
                part.write(bytes(MEBI))
    return out.getvalue()


def tuples_of_tuples(levels: int) -> bytes:
    """A pickle of a dict with a key that takes 2**levels steps to hash."""
    operations = b"\x80\x02}K\x00]K\x01K\x01\x86q\x01a"
    for i in range(2, levels):
        operations += b"h" + bytes([i - 1]) + b"h" + bytes([i - 1]) + b"\x86q" + bytes([i]) + b"a"
    return operations + b"sh" + bytes([levels - 1]) + b"K\x01s."


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


CHECKPOINTS: Contents = {
    "zip bomb": zip_bomb,
    "one value shown a trillion times": lambda: torch_file(
        state_dict()
        | {
            "emb.weight": torch.zeros(1).expand(10**6, 10**6),
            "head.weight": torch.zeros(1).expand(10**6, 10**6),
        }
    ),
    "tuples of tuples": lambda: tuples_of_tuples(99),
    "header of 2**60 bytes": lambda: struct.pack("<Q", 2**60) + b"{}",
    "header of 90 megabytes": lambda: safetensors(b'{"__metadata__":{"a":"' + b"x" * 90_000_000 + b'"}}'),
    "tensor of 2**60 values": lambda: safetensors(
        b'{"emb.weight":{"dtype":"F32","shape":[1073741824,1073741824],"data_offsets":[0,4611686018427387904]}}'
    ),
    "block of 5,000 digits": lambda: torch_file(state_dict() | {f"blocks.{'9' * 5000}.x": torch.zeros(1)}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint(verdict: Verdict, name: str) -> None:
    assert verdict("checkpoint", CHECKPOINTS[name](), 400) == "ok"
