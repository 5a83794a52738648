"""Validation of round files: what is accepted, and every mistake with its place, line and nearest name."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import BadRound
from orchestrator.rounds.reading import parse_round, read_round
from orchestrator.rounds.spec import Confirm, RoundSpec
from orchestrator.rounds.variants import entries
from tests.orchestrator.factories import round_data
from worker.job import HubCheckpoint, RandomCheckpoint

GOOD = """\
round: r1
model: {checkpoint: {random: {layers: 2, dim: 64, vocab: 256}}, tokenizer: bytes}
stages:
  - {name: quick, steps: 10}
  - {name: med, steps: 20, seconds: 5}
tasks:
  s4: {kind: sudoku, size: 4, train: 20, val: 10}
variants: [head_l8, scalar_l8_trainable]
"""


def read(text: str) -> RoundSpec:
    return parse_round(text.encode(), "r.yaml")[0]


def problems(text: str) -> list[str]:
    with pytest.raises(BadRound) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_parse_round__defaults() -> None:
    spec = read(GOOD)
    assert spec.seeds == (0,)
    assert spec.prune.min_delta == 0.001
    assert spec.stages[0].eval_every == 20
    assert [variant.name for variant in spec.variants] == ["head_l8", "scalar_l8_trainable"]


def test_parse_round__survives_storage() -> None:
    spec = read(GOOD)
    assert RoundSpec.from_json(spec.model_dump(mode="json")) == spec


def test_parse_round__a_stage_named_confirm_confirms() -> None:
    spec = read(GOOD.replace("name: med", "name: confirm"))
    assert spec.stages[1].confirm == Confirm()
    assert RoundSpec.from_json(spec.model_dump(mode="json")) == spec


def test_from_json__a_stored_stage_of_that_name_confirms_only_with_the_key() -> None:
    """Rounds that were stored before there were confirm stages may have named any stage so."""
    stored = read(GOOD).model_dump(mode="json")
    for stage in stored["stages"]:
        del stage["confirm"]
    stored["stages"][0]["name"] = "confirm"
    spec = RoundSpec.from_json(stored)
    assert [stage.name for stage in spec.selecting] == ["confirm", "med"]
    again = parse_round(b"round: again\nlike: r1\n", "again.yaml", known=lambda _: stored)[0]
    assert again.stages == spec.stages


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("{checkpoint: a.pth}", Path),
        ("{checkpoint: {hub: {repo: r/r, file: f.pth}}}", HubCheckpoint),
        ("{hub: {repo: r/r, file: f.pth}}", HubCheckpoint),
        ("{random: {layers: 1, dim: 64, vocab: 256}}", RandomCheckpoint),
    ],
)
def test_parse_round__forms_of_checkpoint(model: str, kind: type) -> None:
    spec = read(
        GOOD.replace("{checkpoint: {random: {layers: 2, dim: 64, vocab: 256}}, tokenizer: bytes}", model)
    )
    assert isinstance(spec.model.checkpoint, kind)


@pytest.mark.parametrize(
    ("variants", "names"),
    [
        ("[head_l8]", ["head_l8"]),
        ("{mine: {layer_start: 2}, head_l8: }", ["mine", "head_l8"]),
        ("[head_l8, {mine: {gate: head}}]", ["head_l8", "mine"]),
        (
            "{grid: {layer_start: [10, 12], alpha_init: [-2, -3]}}",
            [f"layer_start={start}_alpha_init={init}" for start in (10, 12) for init in (-2, -3)],
        ),
        (
            "[{grid: {layer_start: [1, 2], norm: false}}, head_l8]",
            ["layer_start=1", "layer_start=2", "head_l8"],
        ),
    ],
)
def test_parse_round__forms_of_variants(variants: str, names: list[str]) -> None:
    spec = read(GOOD.replace("[head_l8, scalar_l8_trainable]", variants))
    assert [variant.name for variant in spec.variants] == names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tasks:", "seed: [0]\ntasks:", "line 6, seed: unknown key 'seed'; did you mean 'seeds'?"),
        ("head_l8,", "head_18,", "line 8, variants.0: unknown variant 'head_18'; did you mean 'head_l8'?"),
        ("kind: sudoku", "kind: sodoku", "line 7, tasks.s4: no task kind 'sodoku'"),
        ("kind: sudoku, ", "", "line 7, tasks.s4.kind: is required and missing"),
        ("size: 4", "sise: 4", "line 7, tasks.s4.sise: unknown key 'sise'; did you mean 'size'?"),
        ("train: 20", "train: '20'", "line 7, tasks.s4.train: expected a valid integer, not '20'"),
        ("train: 20", "train: 20, data: {path: 5}", "tasks.s4.data.path: expected a path, not 5"),
        ("train: 20", "train: -20", "line 7, tasks.s4.train: expected greater than or equal to 1, not -20"),
        ("steps: 10", "steps: -10", "line 4, stages.0.steps: expected greater than 0, not -10"),
        ("steps: 10", "steps: 1.5", "line 4, stages.0.steps: expected a valid integer, not 1.5"),
        (", steps: 10", "", "line 4, stages.0: give steps, seconds or both"),
        ("name: quick", "name: decision", "line 4, stages.0: 'decision' is what decision records carry"),
        ("name: med", "name: quick", "the stage quick stands more than once"),
        ("name: quick", "name: a/b", "line 4, stages.0.name: 'a/b' is no name"),
        (
            "[head_l8,",
            "[baseline,",
            "line 8, variants.0: 'baseline' is the arm without Future-Seed and always run",
        ),
        ("[head_l8, scalar_l8_trainable]", "[]", "line 8, variants: "),
        (
            "[head_l8, scalar_l8_trainable]",
            "{baseline: {}}",
            "line 8, variants.baseline: 'baseline' is the arm without",
        ),
        ("[head_l8, scalar_l8_trainable]", "[head_l8, head_l8]", "the variant head_l8 stands more than once"),
        ("[head_l8, scalar_l8_trainable]", "7", "line 8, variants: expected a list of catalogue names"),
        (
            "[head_l8, scalar_l8_trainable]",
            "\n  mine:\n    layer_start: 2\n    clp: 1",
            "line 11, variants.mine.clp: unknown key 'clp'; did you mean 'clip'?",
        ),
        ("layers: 2", "layers: 0", "line 2, model.checkpoint.random.layers: expected greater than 0, not 0"),
        (
            "layers: 2",
            "layer: 2",
            "model.checkpoint.random.layer: unknown key 'layer'; did you mean 'layers'?",
        ),
        ("dim: 64", "dim: 65", "dim 65 is not a multiple of head_size 64"),
        ("dim: 64", "dim: 64, head_size: 1", "head_size: expected greater than 1, not 1"),
        (
            "{random: {layers: 2, dim: 64, vocab: 256}}",
            "[1]",
            "line 2, model.checkpoint: expected a path, hub:",
        ),
        (
            "tokenizer: bytes",
            "tokenizer: byte",
            "line 2, model.tokenizer: expected 'world' or 'bytes', not 'byte'",
        ),
        ("round: r1", "round: .nan", "line 1, round: expected a valid string, not nan"),
        ("round: r1", "round: 21", "line 1, round: expected a valid string, not 21; put it in quotes"),
        ("[head_l8, scalar_l8_trainable]", "[]", "line 8, variants: expected at least 1, found 0"),
        ("steps: 10", "steps: 10, seconds: .inf", "line 4, stages.0.seconds: expected a finite number"),
        ("round: r1\n", "", "round: is required and missing"),
        ("tasks:", "liek: r0\ntasks:", "line 6, liek: unknown key 'liek'; did you mean 'like'?"),
        (
            "tasks:",
            "baseline_seeds: 0\ntasks:",
            "line 6, baseline_seeds: expected auto, or a number from 1 to 1000",
        ),
        (
            "kind: sudoku",
            "kind: arc, data: {hub: {repo: ../x}}",
            "tasks.s4.data.hub.repo: '../x' is no repo such as",
        ),
        (
            "{random: {layers: 2, dim: 64, vocab: 256}}",
            "{hub: {repo: a/b, file: c}, random: {layers: 2, dim: 64, vocab: 256}}",
            "line 2, model.checkpoint: has both hub and random; give one of them",
        ),
        ("[head_l8, scalar_l8_trainable]", "[{grid: {}}]", "line 8, variants.0.grid: the grid is empty"),
        (
            "[head_l8, scalar_l8_trainable]",
            "[[head_l8]]",
            "line 8, variants.0: expected a catalogue name, a mapping",
        ),
        (
            "[head_l8, scalar_l8_trainable]",
            "[{v: {alpha_init: 1.0e39}}]",
            "variants.0.v: alpha_init = 1e+39 is beyond float32",
        ),
    ],
)
def test_parse_round__mistakes(old: str, new: str, message: str) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1))
    assert any(message in problem for problem in found), found


def test_parse_round__tells_of_every_variant_that_is_wrong() -> None:
    """A grid or an entry that cannot be spelled out hides no other."""
    wrong = "[hed_l8, {v1: {layer_strat: 1}}, {grid: {layer_start: []}}, 3, baseline, head_l8]"
    found = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", wrong))
    assert [problem.partition(": ")[0] for problem in found] == [
        "line 8, variants.0",
        "line 8, variants.1.v1.layer_strat",
        "line 8, variants.2.grid",
        "line 8, variants.3",
        "line 8, variants.4",
    ]


def test_from_json__a_round_of_a_version_that_knew_no_largest_number() -> None:
    stored = read(GOOD).model_dump(mode="json")
    stored["variants"][0]["settings"]["clip"] = 1e300
    assert RoundSpec.from_json(stored).named[0].settings.clip == 1e300


def test_parse_round__reports_all_at_once() -> None:
    text = (
        GOOD.replace("round:", "rond:")
        .replace("steps: 10", "steps: 0")
        .replace("head_l8,", "hed_l8, hed_l10,")
    )
    assert len(problems(text)) == 5  # unknown and missing round, steps, two variants


def test_parse_round__reports_what_does_not_fit_together_beside_what_is_wrong() -> None:
    text = (
        GOOD.replace("tokenizer:", "tokeniser:")
        .replace(
            "  - {name: med, steps: 20, seconds: 5}",
            "  - {name: quick, seconds: 5}\n  - {name: med, stps: 1}",
        )
        .replace(
            "[head_l8, scalar_l8_trainable]",
            "\n  - head_l88\n  - head_l8\n  - mine: {layer_start: 1}\n  - head_l8",
        )
        + "seeds:\n  - 1\n  - -1\n  - 1\nafter: {round: r1}\n"
        + "optimizer: {schedule: cosine}\nearly_stop: {}\nprune: {rule: top_k}\n"
    )
    assert [problem.removesuffix(" (`fsq variants` lists the catalogue)") for problem in problems(text)] == [
        "line 2, model.tokeniser: unknown key 'tokeniser'; did you mean 'tokenizer'?",
        "line 6, stages.2.stps: unknown key 'stps'; did you mean 'steps'?",
        "line 16, seeds.1: expected greater than or equal to 0, not -1",
        "line 10, variants.0: unknown variant 'head_l88'; did you mean 'head_l8'?",
        "line 18, after.round: the round 'r1' cannot come after itself",
        "line 5, stages.1.name: the stage quick stands more than once",
        "line 13, variants.3: the variant head_l8 stands more than once",
        "line 17, seeds.2: the seed 1 stands more than once",
        "line 19, optimizer.schedule: cosine needs steps in every stage; quick has none",
        "line 20, early_stop: the rule 'top_k' does not prune each run below min_delta by itself, as 'threshold' "
        "does; a run that is stopped would change what it decides",
        "line 20, early_stop: needs steps in every stage that selects; quick has none",
    ]


def test_parse_round__looks_for_the_places_of_variants_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(
        "orchestrator.rounds.reading.entries", lambda given: looked.append(1) or entries(given)
    )
    found = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", f"[{', '.join(['head_l8'] * 5000)}]"))
    assert len(found) == 101
    assert found[0] == "line 8, variants.1: the variant head_l8 stands more than once"
    assert found[-1] == "and 4,899 more problems"
    assert len(looked) == 1


@pytest.mark.parametrize(
    "variants", ["[{}]", "[{name: null, settings: null}]", "[{name: 3, settings: null}]"]
)
def test_parse_round__variants_without_a_name(variants: str) -> None:
    assert problems(GOOD.replace("[head_l8, scalar_l8_trainable]", variants))


@pytest.mark.parametrize("seeds", ["[0]", "[-1]"])
def test_parse_round__variants_as_a_stored_round_has_them(seeds: str) -> None:
    stored = ", ".join(f"{{name: {name}, settings: {{layer_start: 1}}}}" for name in "aba")
    found = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", f"[{stored}]") + f"seeds: {seeds}\n")
    assert "line 8, variants.2: the variant a stands more than once" in found


@pytest.mark.parametrize("key", ["tokeniser", "tokenizer"])  # whatever else is wrong, or nothing
def test_parse_round__one_that_confirms_and_a_variant_of_a_control_arm_s_name(key: str) -> None:
    text = GOOD.replace("tokenizer:", f"{key}:") + "control: aa\n"
    text = text.replace("[head_l8,", "[{aa: {layer_start: 1}}, {from: r1},").replace(
        "name: quick", "name: confirm"
    )
    found = problems(text)
    for expected in (
        "line 4, stages.0: a stage that confirms comes last, after at least one that selects",
        "line 8, variants.0.aa: 'aa' is the name of the control arm; choose another name",
        "line 8, variants.1: the round 'r1' cannot take its variants from itself",
    ):
        assert expected in found


def test_read_round__resolves_paths_against_the_file(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        GOOD.replace("{random: {layers: 2, dim: 64, vocab: 256}}", "w.pth").replace(
            "{kind: sudoku, size: 4, train: 20, val: 10}",
            "{kind: sudoku, data: {path: d/s.txt}, train: 2, val: 1}",
        )
    )
    spec, _ = read_round(file)
    assert spec.model.checkpoint == tmp_path / "w.pth"
    data = spec.tasks["s4"].data
    assert data is not None
    assert data.path == tmp_path / "d" / "s.txt"


def test_parse_round__tells_of_a_hundred_problems() -> None:
    found = problems(GOOD + f"seeds: [{', '.join(['-1'] * 500)}]\n")
    assert len(found) == 101
    assert found[-1] == "and 400 more problems"


def test_parse_round__a_mistake_in_a_grid_is_told_once() -> None:
    grid = "{grid: {layer_strt: [1, 2, 3, 4], alpha_init: [-1, -2, -3, -4], clip: [1, 2, 3, 4, 5, 6, 7]}}"
    found = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", grid) + "sedes: [0]\n")
    assert found == [
        "line 8, variants.grid.layer_strt: unknown key 'layer_strt'; did you mean 'layer_start'?",
        "line 9, sedes: unknown key 'sedes'; did you mean 'seeds'?",
    ]


def test_parse_round__a_grid_whose_variants_would_have_long_names() -> None:
    axes = ("alpha_init", "alpha_lr", "seed_scale", "schedule_min", "schedule_max", "clip")
    grid = ", ".join(f"{axis}: [1.0625, 2.0625]" for axis in axes)
    grid = f"{{grid: {{{grid}, schedule: linear}}}}"
    names = [variant.name for variant in read(GOOD.replace("[head_l8, scalar_l8_trainable]", grid)).variants]
    assert len(set(names)) == 64
    assert all(len(name) == 100 and name.startswith("alpha_init=") for name in names)


def test_parse_round__no_variant() -> None:
    found = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", "[{}]"))
    assert found == ["line 8, variants: expected at least 1, found 0"]


def test_parse_round__what_a_confirm_stage_needs() -> None:
    text = GOOD.replace("name: med", "name: confirm")
    (found,) = problems(text.replace("val: 10", "val: 1"))
    assert found == "line 7, tasks.s4.val: the stage confirm confirms on as many examples, at least 2"
    (found,) = problems(text.replace("val: 10", "val: 10, val_selected: 3"))
    assert found.startswith("line 7, tasks.s4.val_selected: the stage confirm sets it itself")
    read(text.replace("val: 10", "val: 10, val_offset: 3"))
    read(text.replace("val: 10", "val: 1").replace("name: confirm", "name: c, confirm: {val: 2}"))
    stored = read(text).model_dump(mode="json")
    stored["tasks"]["s4"]["val"] = 1
    RoundSpec.from_json(stored)  # an earlier version let it pass


def test_parse_round__more_variants_than_jobs() -> None:
    axis = list(range(10))
    grid = {"grid": {"alpha_init": axis, "clip": axis, "seed_scale": axis}}
    (found,) = problems(GOOD.replace("[head_l8, scalar_l8_trainable]", str([grid] * 101).replace("'", "")))
    assert (
        found == "line 8, variants: the variants are more than 100,000, and a round has at most so many jobs"
    )


@pytest.mark.parametrize("like", ["a/b", "''", "x" * 101, "1", "[x]"])
def test_parse_round__like_what_is_no_name(like: str) -> None:
    assert "line 9, like: expected the name of a round" in problems(GOOD + f"like: {like}\n")


def test_parse_round__a_key_that_would_paint_the_terminal() -> None:
    (found,) = problems(GOOD + '"a\\e[31m\\nb": 1\n')
    assert found.startswith(r"line 9, a\x1b[31m\nb: unknown key 'a\x1b[31m\nb'; known here: ")


def test_read_round__endless_file() -> None:
    with pytest.raises(
        BadRound, match="zero: the file has 1,000,001 bytes; a round file has at most 1,000,000"
    ):
        read_round(Path("/dev/zero"))


def test_read_round__missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadRound, match=r"nowhere\.yaml: .*cannot be read: No such file"):
        read_round(tmp_path / "nowhere.yaml")


def _mutations(value: Any) -> st.SearchStrategy[Any]:
    """The good round with one value anywhere replaced by something arbitrary."""
    junk = st.one_of(
        st.none(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
    )
    if isinstance(value, dict) and value:
        return st.one_of(
            junk,
            *(_mutations(inner).map(lambda new, k=k: value | {k: new}) for k, inner in value.items()),  # type: ignore[misc]
            st.tuples(st.text(max_size=5), junk).map(lambda pair: value | {pair[0]: pair[1]}),
        )
    if isinstance(value, list) and value:
        return st.one_of(junk, _mutations(value[0]).map(lambda new: [new, *value[1:]]))
    return junk


@given(_mutations(yaml.safe_load(GOOD)))
def test_parse_round__whatever_comes_in_gives_a_round_or_problems(data: Any) -> None:
    try:
        parse_round(yaml.safe_dump(data).encode(), "r.yaml")
    except BadRound as error:
        assert error.problems


def test_parse__a_list_of_which_everything_is_wrong_is_not_empty() -> None:
    (problem,) = problems(
        GOOD.replace(", steps: 10", "").replace("  - {name: med, steps: 20, seconds: 5}\n", "")
    )
    assert problem.startswith("line 4, stages.0: ")


def test_parse__date_in_names() -> None:
    data = round_data(round="night_{date}", after={"round": "day_{date}"})
    content = yaml.safe_dump(data).encode()

    spec, _ = parse_round(content, "r.yaml", today=date(2026, 11, 24))

    assert spec.round == "night_2026-11-24"
    assert spec.after is not None
    assert spec.after.round == "day_2026-11-24"
    with pytest.raises(BadRound, match=r"night_\{date\}. is no name"):
        parse_round(content, "r.yaml")


def test_parse__after_on_the_command_line_names_the_round() -> None:
    data = round_data(after={"round": "other", "when": "any"})

    spec, _ = parse_round(yaml.safe_dump(data).encode(), "r.yaml", "parent_{date}", today=date(2026, 11, 24))

    assert spec.after is not None
    assert (spec.after.round, spec.after.when) == ("parent_2026-11-24", "any")
