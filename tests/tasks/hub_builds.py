"""Builds from a hub, each in a process forked from this one, which has loaded what takes most of their time.

Reads, a line each, a folder, a task's options, where to write what the build says and how many seconds the hub may be
silent, or null; answers with its exit code.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets  # noqa: F401 - a build loads it when it needs it

from model.tokenizers import get_tokenizer
from tasks import TaskError, build, hub, parse_config


def said(options: dict[str, Any]) -> str:
    try:
        _, _, report = build(parse_config(options), get_tokenizer("bytes"))
    except TaskError as error:
        return f"{type(error).__name__}: {error}"
    return f"{report.source} {report.digest}"


def main() -> None:
    for line in sys.stdin:
        folder, options, output, silence = json.loads(line)
        if (child := os.fork()) == 0:
            os.chdir(folder)
            hub.SILENCE = silence or hub.SILENCE
            Path(output).write_text(said(options))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
