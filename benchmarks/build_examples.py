"""Times building 10,000 MBPP-size examples with notes, and loading them from the cache.

    python benchmarks/build_examples.py [-o benchmarks/results/build_examples.json] [--examples 10000] [--data FILE]

The rows are MBPP's, repeated under other names until there are enough. The peer does what a script does that renders
each prompt with its notes as text: it tokenises every finished prompt once, and nothing else; timed on 1,000 prompts.
"""

import argparse
import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from machine import machine

from model.tokenizers import get_tokenizer
from tasks import build

T = TypeVar("T")
MBPP = Path("../shared/data/mbpp/mbpp.jsonl")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def many_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """MBPP's rows, with numbers after their names so that each is another problem."""
    originals = [json.loads(line) for line in path.read_text().splitlines()]
    rows = []
    for number, row in zip(range(count), itertools.cycle(originals), strict=False):
        name = re.search(r"assert (\w+)", row["test_list"][0])
        old = name.group(1) if name else "solve"
        text = (
            json.dumps(row).replace(old, f"{old}_{number}") if number >= len(originals) else json.dumps(row)
        )
        rows.append(json.loads(text) | {"task_id": f"row {number}", "text": f"{row['text']} ({number})"})
    return rows


def measure(path: Path, examples: int, tokenizer_name: str) -> dict[str, Any]:
    tokenizer = get_tokenizer(tokenizer_name)
    tokenizer.encode("load the vocabulary first")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        rows = many_rows(path, examples * 3 // 2 + 2000)
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        options = {"kind": "mbpp", "data": {"path": data}, "train": examples, "val": examples // 10}
        cache = Path(folder) / "cache"
        (train, val, report), built = timed(lambda: build(options, tokenizer, cache_dir=cache))
        _, loaded = timed(lambda: build(options, tokenizer, cache_dir=cache))
    prompts = [tokenizer.decode(example.prompt.tolist()) for example in train[:1000]]
    _, peer = timed(lambda: [tokenizer.encode(prompt) for prompt in prompts])
    peer *= (len(train) + len(val)) / len(prompts)
    return {
        "tokenizer": tokenizer_name,
        "examples": len(train) + len(val),
        "prompt_tokens": report.train.prompt_tokens.max,
        "tokens": sum(len(example.prompt) for example in [*train, *val]),
        "build_and_store_s": round(built, 2),
        "load_from_cache_s": round(loaded, 2),
        "tokenise_all_prompts_s": round(peer, 2),
        "build_over_tokenise": round(built / peer, 2),
        "load_over_build": round(loaded / built, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/build_examples.json"))
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=MBPP)
    arguments = parser.parse_args()
    results = {
        "machine": machine(),
        "results": [measure(arguments.data, arguments.examples, name) for name in ("world", "bytes")],
    }
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
