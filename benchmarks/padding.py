"""The share of padding in the training batches of each task of a round, bucketed by length and merely shuffled.

    python benchmarks/padding.py [ROUND.yaml] [-o benchmarks/results/padding.json]

Counts positions over three epochs, prompt and answer padded for themselves as training does; runs no model.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from model.tokenizers import get_tokenizer
from orchestrator.rounds.reading import read_round
from tasks import Example, build
from worker.child.batches import BatchOrder

EPOCHS = 3


def padding(batches: Iterable[Sequence[Example]]) -> float:
    """Padded positions as a share of all."""
    real = padded = 0
    for batch in batches:
        for lengths in ([len(e.prompt) for e in batch], [len(e.answer) - 1 for e in batch]):
            real += sum(lengths)
            padded += max(lengths) * len(lengths)
    return 1 - real / padded


def bucketed(examples: Sequence[Example], batch_size: int) -> Iterator[list[Example]]:
    order = BatchOrder([len(e.prompt) + len(e.answer) for e in examples], batch_size, seed=0)
    for step in range(EPOCHS * order.batches_per_epoch):
        yield [examples[index] for index in order.batch(step)]


def shuffled(examples: Sequence[Example], batch_size: int) -> Iterator[Sequence[Example]]:
    rng = random.Random(0)
    for _ in range(EPOCHS):
        order = rng.sample(examples, len(examples))
        yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("round", type=Path, nargs="?", default=Path("examples/all_tasks.yaml"))
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/padding.json"))
    arguments = parser.parse_args()
    spec, _ = read_round(arguments.round)
    results = {}
    for name, config in spec.tasks.items():
        train, _, _ = build(config, get_tokenizer(spec.model.tokenizer))
        results[name] = {
            "batch_size": config.batch_size,
            "bucketed": round(padding(bucketed(train, config.batch_size)), 4),
            "shuffled": round(padding(shuffled(list(train), config.batch_size)), 4),
        }
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
