"""`fsq doctor` on real processes: a worker at work, then killed, and a checkpoint that has changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from safetensors.torch import save_file

from model import ModelShape, random_state_dict
from tests.acceptance.conftest import FSQ, Fsq, write_round
from tests.acceptance.test_run import running_after, wait_until


def test_doctor__worker_at_work_then_killed_and_its_checkpoint_changed(
    fsq: Fsq, environment: dict[str, str], home: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "tiny.safetensors"
    save_file(random_state_dict(ModelShape.random(3, 64, 256), seed=0), weights)
    model = {"checkpoint": str(weights), "tokenizer": "bytes", "dtype": "float32"}
    long = [{"name": "quick", "steps": 100_000, "eval_every": 1000}]
    path = write_round(tmp_path, model=model, stages=long)
    alone = environment | {"OMP_NUM_THREADS": "1"}  # leaves a core to the doctor
    with subprocess.Popen(
        [FSQ, "run", path, "--device", "cpu"], env=alone, stdout=subprocess.DEVNULL
    ) as worker:
        try:
            wait_until(lambda: running_after(home / "fsq.db", 0))
            healthy = fsq("doctor", env={"CC": "/no/such/compiler", "XDG_CACHE_HOME": str(home / "cache")})
        finally:
            worker.kill()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    sick = fsq("doctor", "--json")

    assert healthy.returncode == 0, healthy.stdout
    assert f": process {worker.pid} is at work\n" in healthy.stdout
    assert (
        "ok      compiled kernels: not available: no C compiler '/no/such/compiler': install gcc, or name one in the "
        "variable CC\n        jobs on the CPU take several times as long without them\n"
    ) in healthy.stdout

    assert (sick.returncode, sick.stderr) == (1, "")
    died, changed = [finding for finding in json.loads(sick.stdout) if not finding["is_fine"]]
    assert died["what"].startswith("worker 1 on ")
    assert died["advice"].startswith("run `fsq work --device cpu`: ")
    assert changed["what"] == "checkpoint tiny.safetensors"
    assert changed["advice"].startswith("put back the file of the submission")
