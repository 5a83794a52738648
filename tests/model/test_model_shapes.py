import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import CheckpointError, ShapeError
from model.shapes import ModelShape


def test_random__is_the_official_0_1b() -> None:
    shape = ModelShape.random(layers=12, dim=768, vocab=65536)
    assert (shape.decay_rank, shape.rate_rank, shape.value_rank, shape.gate_rank) == (64, 64, 32, 128)
    assert (shape.n_head, shape.ffn_size) == (12, 3072)
    assert len(shape.tensors()) == 402
    assert shape.n_params == 191_084_544


def test_random__ranks_of_a_small_model() -> None:
    shape = ModelShape.random(layers=3, dim=128, vocab=512)
    assert (shape.decay_rank, shape.rate_rank, shape.value_rank, shape.gate_rank) == (32, 32, 32, 64)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 100, 256, 64), "dim = 100 is not a multiple of head_size = 64"),
        ((3, 64, 256, 0), "head_size = 0"),
        ((0, 64, 256, 64), "n_layer = 0: expected at least 1"),
        ((3, 64, 0, 64), "vocab_size = 0: expected at least 1"),
    ],
)
def test_random__impossible_sizes(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        ModelShape.random(*sizes)


shapes = st.builds(
    lambda layers, heads, head_size, vocab, ffn, ranks, block0: ModelShape(
        n_layer=layers,
        n_embd=heads * head_size,
        n_head=heads,
        head_size=head_size,
        vocab_size=vocab,
        ffn_size=ffn,
        decay_rank=ranks[0],
        rate_rank=ranks[1],
        value_rank=ranks[2] if layers > 1 or block0 else 0,
        gate_rank=ranks[3],
        block0_value_residual=block0,
    ),
    st.integers(1, 13),
    st.integers(1, 4),
    st.sampled_from([16, 32, 64, 128]),
    st.integers(1, 70000),
    st.integers(1, 5000),
    st.tuples(*[st.integers(1, 300)] * 4),
    st.booleans(),
)


@given(shapes)
def test_infer__finds_the_sizes_again(shape: ModelShape) -> None:
    assert ModelShape.infer(shape.tensors()) == shape


@given(shapes, st.data())
def test_infer__notices_any_missing_or_misshapen_tensor(shape: ModelShape, data: st.DataObject) -> None:
    tensors = shape.tensors()
    broken = data.draw(st.sampled_from(sorted(tensors)))
    with pytest.raises(CheckpointError):
        ModelShape.infer({name: size for name, size in tensors.items() if name != broken})
    with pytest.raises(CheckpointError):
        ModelShape.infer(tensors | {broken: (*tensors[broken], 1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.1.att.w2": (32, 63)}, r"'blocks.1.att.w2' has shape \(32, 63\): expected \(32, 64\)"),
        ({"blocks.1.att.key.weight": None}, "1 of 105 tensors are missing: blocks.1.att.key.weight"),
        ({"blocks.0.att.r_k": (2, 64)}, "n_embd = 64 is not n_head \\* head_size = 2 \\* 64"),
        ({"emb.weight": None}, "no tensor 'emb.weight' among 104 tensors"),
        ({"blocks.0.att.g1": None}, "tensor 'blocks.0.att.g1' is missing: the file is incomplete"),
        ({"emb.weight": (64,)}, r"'emb.weight' has shape \(64,\): expected two dimensions"),
        (
            {"blocks.0.att.time_decay": (64,)},
            "1 tensors do not belong to an RWKV-7 .x070. model: blocks.0.att.time",
        ),
        ({"blocks.7.ln1.weight": (64,)}, "block 3 has no tensors, but block 7 has"),
    ],
)
def test_infer__says_what_is_wrong(changes: dict[str, tuple[int, ...] | None], message: str) -> None:
    tensors = {**ModelShape.random(3, 64, 100).tensors(), **changes}
    with pytest.raises(CheckpointError, match=message):
        ModelShape.infer({name: size for name, size in tensors.items() if size is not None})


def test_infer__no_rwkv_at_all() -> None:
    with pytest.raises(CheckpointError, match="expected the official RWKV-7"):
        ModelShape.infer({"transformer.wte.weight": (50257, 768)})
