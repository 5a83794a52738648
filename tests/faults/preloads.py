"""C libraries to preload into processes: a clock that jumps, a disk that forgets what was not synced."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def compiled(name: str, folder: Path) -> Path:
    """The library made of `name`.c beside this module; skips the test where there is no compiler for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("preloading a library needs Linux and a C compiler")
    library = folder / f"{name}.so"
    if set(" :") & set(str(library)):
        pytest.skip(f"a library at {library} cannot be preloaded: blanks and colons separate several")
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Clock:
    """The time of day of the processes that run with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "clock offset"
        self.set(hours=0)
        self.environment = {
            "LD_PRELOAD": str(compiled("clock", folder)),
            "CLOCK_OFFSET": str(self._offset),
        }

    def set(self, *, hours: float) -> None:
        """Moves it to so many hours after the true time, or before it, at once."""
        written = self._offset.with_suffix(".new")
        written.write_text(str(round(hours * 3600)))
        written.replace(self._offset)


class Disk:
    """What of `home` survives a power cut, as written by the processes that run with `environment`."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._home = home
        self._shadow = folder / "durable"
        home.mkdir(parents=True, exist_ok=True)
        self._start_over()
        self.environment = {
            "LD_PRELOAD": str(compiled("power", folder)),
            "POWER_HOME": str(home.resolve()),
            "POWER_SHADOW": str(self._shadow),
        }

    def forget(self) -> None:
        """Leaves of `home` what was durable; no process may be using it."""
        shutil.rmtree(self._home)
        shutil.copytree(self._shadow / "tree", self._home)
        self._start_over()

    def _start_over(self) -> None:
        """Everything that is there now is durable."""
        shutil.rmtree(self._shadow, ignore_errors=True)
        tree, objects = self._shadow / "tree", self._shadow / "objects"
        objects.mkdir(parents=True)
        shutil.copytree(self._home, tree)
        for path in filter(Path.is_file, self._home.rglob("*")):
            found = path.stat()
            os.link(tree / path.relative_to(self._home), objects / f"{found.st_dev:x}-{found.st_ino:x}")
