"""A network that goes away in the middle of a download."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import NewNight
from tests.faults.harness import Undisturbed
from tests.faults.network import Line, line_to
from tests.faults.rounds import write_data_round, write_rows
from tests.hub_stand_in import serving

REPO = "someone/mbpp"


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """The line to a hub that has the rows."""
    data = tmp_path / "repositories" / "datasets" / REPO
    data.mkdir(parents=True)
    write_rows(data / "train.jsonl")
    with serving(tmp_path / "repositories") as hub, line_to(hub.server_address[1]) as line:
        yield line


def test_network__gone_during_a_download(
    new_night: NewNight, calm_rounds: dict[str, Undisturbed], line: Line, tmp_path: Path
) -> None:
    """The numbers are those of the round on a local copy of the data, which no network can disturb."""
    night = new_night(
        HF_ENDPOINT=line.address,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )
    night.run("submit", str(write_data_round(tmp_path, {"hub": {"repo": REPO, "split": "train"}})))
    shutil.rmtree(night.home / "cache")
    shutil.rmtree(tmp_path / "hf")
    line.cut(after=12_000)

    worker = night.work()
    night.wait_for(lambda: worker.count("job ended", outcome="infra_failed", will_retry=True))
    assert line.is_dead
    line.mend()

    worker.finish()
    night.assert_equals(calm_rounds["data"], "data")
