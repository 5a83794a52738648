"""Where the training process starts: `python -m worker.child`, with the arguments of `worker.child.serving.serve`."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Imports what training takes without looking for garbage, which takes its time and finds none.

    What is imported stays; no later look for garbage goes through it.
    """
    gc.disable()
    from worker.child.serving import serve

    gc.freeze()
    gc.enable()
    serve(sys.argv[1:])


if __name__ == "__main__":
    main()
