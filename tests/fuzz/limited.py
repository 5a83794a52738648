"""Runs targets on files, each in a process of its own that may have only so much memory and time.

Reads lines `target file megabytes` and writes for each one line: `ok`, or how it failed.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from pathlib import Path

from tests.fuzz.targets import TARGETS, workplace

SECONDS = 30


def run(name: str, path: Path, megabytes: int) -> None:
    """Ends this process: with 0 if the target found the content in order."""
    try:
        content = path.read_bytes()
        limit = _virtual_size() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        TARGETS[name][0](content)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _virtual_size() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def main() -> None:
    workplace()  # before the forks, which leave nothing behind then
    for line in sys.stdin:
        name, path, megabytes = line.split()
        child = os.fork()
        if child == 0:
            run(name, Path(path), int(megabytes))
        _, status = os.waitpid(child, 0)
        print("ok" if status == 0 else f"ended with {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
