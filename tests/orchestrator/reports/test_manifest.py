"""The manifest: every result once, read back as written, and refused in a sentence where it is none."""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import BadInput
from orchestrator.reports import manifest
from tests.orchestrator.reports.samples import decision, job, of_round, two_seeds


def test_manifest__every_result_and_mean() -> None:
    found = manifest.of([of_round(two_seeds()), of_round([], "empty")])

    assert [one.round for one in found.rounds] == ["r1", "empty"]
    arms = ["quick/l1", "med/l1", "quick/l2", "quick/noop", "quick/bad", "quick/baseline", "med/baseline"]
    runs = {f"r1/s4/{arm}/seed{seed}" for arm in arms for seed in (0, 1)}
    assert {one.id for one in found.results} == runs | {f"r1/s4/{arm}" for arm in arms[:3]}
    assert len(found.results) == 17
    assert manifest.read(manifest.to_json(found).encode(), "m.json") == found


def test_manifest__a_decision_over_seeds_is_that_of_each() -> None:
    records = [job("l1", seed=seed, d_acc=0.05) for seed in (0, 1)]
    records.append(decision("l1", "promoted", d_acc=0.05, seeds=[0, 1]))
    found = {one.id: one.figures.get("decision") for one in manifest.of([of_round(records)]).results}
    assert found == {
        "r1/s4/quick/l1/seed0": "promoted",
        "r1/s4/quick/l1/seed1": "promoted",
        "r1/s4/quick/l1": None,
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"format": "fsq-manifest", "version": 2, "rounds": [], "results": []}',
        b'{"format": "x", "version": 1, "rounds": [], "results": []}',
        b'{"version": 1, "rounds": [], "results": [{"id": "a", "figures": {"a": NaN}}]}',
        b'{"rounds": [], "results": [], "\\u001b[31m": 1}',
    ],
)
def test_read__refuses(content: bytes) -> None:
    with pytest.raises(BadInput, match=r"^m\.json is no manifest of version 1: ") as refused:
        manifest.read(content, "m.json")
    assert str(refused.value).isprintable()


def test_manifest__its_json_is_plain() -> None:
    whole = json.loads(manifest.to_json(manifest.of([of_round(two_seeds())])))
    assert (whole["format"], whole["version"]) == ("fsq-manifest", 1)
    assert {"id", "fingerprint", "caveats", "figures"} == set(whole["results"][0])
