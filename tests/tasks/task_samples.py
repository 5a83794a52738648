"""Small data sets and a tokenizer for the tests of `tasks`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Bytes:
    """One token a byte; counts its calls, so that a test can tell that it was not used."""

    name = "test-bytes"
    vocab_size = 256

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, text: str) -> list[int]:
        self.calls += 1
        return list(text.encode())

    def encode_symbols(self, text: str) -> list[int]:
        if not text.isascii():
            raise ValueError(text)
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mbpp_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "text": f"Write a function to add {number} to a number.",
        "code": f"def add_{number}(x):\r\n    return x + {number}\r\n",
        "task_id": number,
        "test_list": [f"assert add_{number}(1) == {number + 1}", f"assert add_{number}(0) == {number}"],
    }
    return row | changes


def mbpp_rows(*, train: int = 8, val: int = 6, rest: int = 5) -> list[dict[str, Any]]:
    """Rows with MBPP's numbers of the train, test and validation part."""
    numbers = [*range(601, 601 + train), *range(11, 11 + val), *range(511, 511 + rest)]
    return [mbpp_row(number) for number in numbers]


def arc_row(number: int, labels: str = "ABCD", **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"q{number}",
        "question": f"Which number is {number}?",
        "choices": {"text": [f"{number} plus {i}" for i, _ in enumerate(labels)], "label": list(labels)},
        "answerKey": labels[number % len(labels)],
    }
    return row | changes


def ai2_row(number: int, labels: str = "ABCD") -> dict[str, Any]:
    row = arc_row(number, labels)
    choices = [{"text": text, "label": label} for text, label in zip(*row["choices"].values(), strict=True)]
    return row | {"question": {"stem": row["question"], "choices": choices}, "choices": None}


def hotpot_row(number: int, **changes: Any) -> dict[str, Any]:
    titles = [f"Town {number}.{paragraph}" for paragraph in range(4)]
    row = {
        "id": f"h{number}",
        "question": f"Which town of district {number} is the largest?",
        "answer": titles[number % 4],
        "context": {
            "title": titles,
            "sentences": [[f"{title} is a town.", f" It has {number} houses."] for title in titles],
        },
    }
    return row | changes


def chain_row(number: int, length: int = 110, **changes: Any) -> dict[str, Any]:
    """A chain folded at random, a step of 3.8 angstrom a residue, kept within a sphere."""
    rng = random.Random(f"chain {number}")
    point, points = [0.0, 0.0, 0.0], []
    for _ in range(length):
        step = [rng.gauss(-0.08 * x, 1) for x in point]
        norm = sum(x * x for x in step) ** 0.5
        point = [round(x + 3.8 * d / norm, 3) for x, d in zip(point, step, strict=True)]
        points.append(point)
    row = {
        "name": f"C{number}",
        "seq": "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=length)),
        "tertiary": points,
    }
    return row | changes


def text_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {"text": f"In {1000 + number}, Ann said: “Go on!” (Nobody of the {number} others did, sadly.)"}
    return row | changes


def protein_row(number: int, length: int = 120, **changes: Any) -> dict[str, Any]:
    rng = random.Random(f"protein {number}")
    row = {
        "PDB_ID": f"P{number}",
        "Sequence": "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=length)),
        "Secondary_structure": "".join(rng.choices("HBEGITS~", k=length)),
    }
    return row | changes
