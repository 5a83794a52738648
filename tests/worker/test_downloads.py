from __future__ import annotations

from pathlib import Path

import pytest

from worker.downloads import revision_of_file


@pytest.mark.parametrize(
    ("path", "revision"),
    [
        (f"/x/hub/models--a--b/snapshots/{'f' * 40}/w.pth", "f" * 40),
        (f"/x/hub/models--a--b/snapshots/{'f' * 40}/sub/w.pth", "f" * 40),
        (f"/mnt/snapshots/hf/hub/models--a--b/snapshots/{'f' * 40}/w.pth", "f" * 40),
        ("/mnt/snapshots/hf/w.pth", None),
    ],
)
def test_revision_of_file(path: str, revision: str | None) -> None:
    assert revision_of_file(Path(path)) == revision
