"""A chain of nightly rounds as cron would run it: empty environment, another working directory, several at once."""

from __future__ import annotations

import json
import shlex
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from tests.acceptance.conftest import FSQ, write_round
from tests.conftest import CHECKOUT

CRON_PATH = f"{FSQ.parent}:/usr/bin:/bin"


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """The two files of examples/nightly, smaller, in a folder of their own."""
    folder = tmp_path / "rounds"
    folder.mkdir()
    search = write_round(folder, round="search_{date}", prune={"min_delta": -1.0})
    search.rename(folder / "search.yaml")
    seeds = yaml.safe_load((CHECKOUT / "examples" / "nightly" / "seeds.yaml").read_text())
    assert (seeds["like"], seeds["after"]["when"]) == ("search_{date}", "promoted")
    (folder / "seeds.yaml").write_text(yaml.safe_dump(seeds, sort_keys=False))
    return folder


def cron(line: str, home: Path) -> subprocess.Popen[str]:
    """Starts a line of a crontab as cron does: by /bin/sh, in the home directory, with next to no environment."""
    environment = {"SHELL": "/bin/sh", "PATH": CRON_PATH, "LOGNAME": "root", "HOME": str(home)}
    return subprocess.Popen(
        ["/bin/sh", "-c", line],
        env=environment | {"FSQ_HOME": str(home / "fsq")},  # as the crontab itself sets it, above its lines
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_night__submitted_and_worked_off_by_cron(night: Path, tmp_path: Path, same_day: None) -> None:
    folder = shlex.quote(str(night))
    submit = f"cd {folder} && fsq submit search.yaml && fsq submit seeds.yaml"
    today = f"{datetime.now().astimezone():%Y-%m-%d}"

    twice = [cron(submit, tmp_path), cron(submit, tmp_path)]  # ten minutes later the first one still runs
    results = [ended(process) for process in twice]
    assert [code for code, _, _ in results] == [0, 0], results
    said = sorted(line for *_, err in results for line in err.splitlines())
    assert said == [
        f"search_{today}: known already",
        f"search_{today}: submitted",
        f"seeds_{today}: known already",
        f"seeds_{today}: submitted",
    ]

    workers = [cron("fsq work --drain", tmp_path) for _ in range(3)]
    codes = sorted(ended(worker)[0] for worker in workers)
    assert codes == [0, 4, 4]  # one device: the others leave it to the first

    code, out, _ = ended(cron("fsq status --json", tmp_path))
    rounds = {line["round"]: line for line in json.loads(out)["rounds"]}
    assert (code, list(rounds)) == (0, [f"search_{today}", f"seeds_{today}"])
    assert {line["state"] for line in rounds.values()} == {"finished"}
    check = json.loads(ended(cron(f"fsq status seeds_{today} --json", tmp_path))[1])
    assert {job["seed"] for job in check["jobs"]} == {1, 2, 3}
    assert len({job["config"] for job in check["jobs"]}) == 3  # the baseline and the two best
    assert list((tmp_path / "fsq" / "locks").iterdir())  # the lock file stays; what counts is who holds it

    assert ended(cron("fsq work --drain", tmp_path))[0] == 0  # nothing left to do
