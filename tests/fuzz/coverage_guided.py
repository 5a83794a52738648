"""Runs a target under atheris, keeping what reaches new code: `python -m tests.fuzz.coverage_guided NAME SECONDS`.

What it finds stays in .hypothesis/fuzz/TARGET; give such a file's content to the target in a test, then mend.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(
    include=["orchestrator", "tasks", "model", "yaml", "csv", "json", "python_multipart"]
):
    from tests.fuzz.seeds import NASTY
    from tests.fuzz.targets import TARGETS, workplace

FOLDER = Path(".hypothesis") / "fuzz"
SLOWEST_SECONDS = 25  # for one input
MOST_MEGABYTES = 6000


def main(name: str, seconds: int) -> None:
    target, seeds = TARGETS[name]
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(content)
    dictionary = FOLDER / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(piece)}"\n' for piece in NASTY if len(piece) <= 64))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST_SECONDS}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-dict={dictionary}",
        f"-artifact_prefix={corpus}/found-",
        f"-max_len={2 * max(map(len, seeds)) + 4096}",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    workplace()  # the fuzzer ends without tidying up

    def run(content: bytes) -> None:  # atheris would take what a target returns for an exit code
        target(content)

    child = os.fork()
    if child == 0:
        atheris.Setup([sys.argv[0], *options, str(corpus)], run)
        atheris.Fuzz()
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
