import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import live_state_dict
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file

from model import checkpoint, load
from model.errors import CheckpointError
from model.shapes import ModelShape

SHAPE = ModelShape.random(2, 64, 20, head_size=32)


def save(path: Path, tensors: dict[str, Any], *, zipped: bool = True) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture(params=["model.safetensors", "model.pth"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(tmp_path / request.param, live_state_dict(SHAPE))


def test_inspect__sizes(file: Path) -> None:
    assert checkpoint.inspect(file) == SHAPE


def test_read__every_tensor_bit_by_bit(file: Path) -> None:
    expected = live_state_dict(SHAPE)
    tensors = checkpoint.read(str(file))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_read__keeps_the_dtype(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    path = save(tmp_path / name, {key: x.to(dtype) for key, x in live_state_dict(SHAPE).items()})
    assert checkpoint.inspect(path) == SHAPE
    assert {tensor.dtype for tensor in checkpoint.read(path).values()} == {dtype}
    assert {parameter.dtype for parameter in load(path).parameters()} == {torch.float32}


def test_read__tied_weights(tmp_path: Path) -> None:
    shape = ModelShape.random(1, 64, 3000, 32)
    tensors = live_state_dict(shape)
    tensors["head.weight"] = tensors["emb.weight"]
    read = checkpoint.read(save(tmp_path / "model.pth", tensors))
    assert torch.equal(read["head.weight"], tensors["emb.weight"])


def test_read__a_pickle_of_old_versions(tmp_path: Path) -> None:
    path = save(tmp_path / "old.pth", live_state_dict(SHAPE), zipped=False)
    assert checkpoint.inspect(path) == SHAPE
    assert checkpoint.read(path).keys() == SHAPE.tensors().keys()


def test_digest__is_sha256_of_the_file(file: Path) -> None:
    assert checkpoint.digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


class Code:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("zipped", [True, False])
def test_read__never_runs_code(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "it ran"
    path = save(tmp_path / "evil.pth", live_state_dict(SHAPE) | {"code": Code(proof)}, zipped=zipped)
    with pytest.raises(
        CheckpointError, match=r"evil.pth: it asks to run \w+.mkdir when loaded, which was refused"
    ):
        checkpoint.read(path)
    with pytest.raises(CheckpointError, match="refused"):
        checkpoint.inspect(path)
    assert not proof.exists()


def test_read__never_runs_a_bare_pickle(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Code(proof)))
    with pytest.raises(CheckpointError, match=r"evil\.pth: it "):
        checkpoint.read(path)
    assert not proof.exists()


READERS = (checkpoint.inspect, checkpoint.read)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_readers__cut_short(file: Path, reader: Any, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: max(3, int(share * len(content)))])
    with pytest.raises(CheckpointError, match=r"model\.\w+.* damaged, cut short"):
        reader(file)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"x", "damaged, cut short, or neither safetensors nor .pth"),
        (b"round: one\nmodel: {}\n", "damaged, cut short, or neither safetensors nor .pth"),
        (b"PK\x03\x04 but no archive", "damaged, cut short, or no PyTorch file"),
        (
            b"\x80\x02 but no pickle",
            "file.pth: it is a damaged pickle or no checkpoint, and nothing in it was run",
        ),
    ],
)
def test_readers__no_checkpoint(tmp_path: Path, reader: Any, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        reader(path)


@pytest.mark.parametrize("reader", [*READERS, checkpoint.digest])
def test_readers__what_is_no_file(tmp_path: Path, reader: Any) -> None:
    with pytest.raises(CheckpointError, match=r"none.pth does not exist: check the path"):
        reader(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a directory: name the file in it"):
        reader(tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "it holds a list: expected a dict of tensors"),
        ({"model": {"emb.weight": torch.zeros(2)}}, "'model' in it is a dict: expected only tensors"),
        ({"emb.weight": torch.zeros(4, 4)}, "no tensor 'blocks.0.att.r_k' among 1 tensors"),
        ({"emb.weight": torch.zeros(4, 4, dtype=torch.uint8)}, "'emb.weight' is uint8: expected float64"),
    ],
)
def test_readers__other_content(tmp_path: Path, reader: Any, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        reader(save(tmp_path / "file.pth", content))


@pytest.mark.parametrize("reader", READERS)
def test_readers__quantised_safetensors(tmp_path: Path, reader: Any) -> None:
    tensors = live_state_dict(SHAPE) | {"head.weight": torch.zeros(20, 64, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"'head.weight' is (I8|int8): expected float64"):
        reader(save(tmp_path / "file.safetensors", tensors))


@pytest.mark.parametrize("first", [b"\x80\x02", b"PK"])
def test_readers__a_header_whose_length_looks_like_another_format(tmp_path: Path, first: bytes) -> None:
    content = save_bytes(live_state_dict(SHAPE))
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    length = int.from_bytes(first, "little") + 2**17 * (first == b"\x80\x02")
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + content[8 + len(header) :])
    assert path.read_bytes().startswith(first)
    assert checkpoint.inspect(path) == SHAPE
    assert checkpoint.read(path).keys() == SHAPE.tensors().keys()


@pytest.mark.parametrize("reader", READERS)
def test_readers__compressed_archive(tmp_path: Path, reader: Any) -> None:
    path = tmp_path / "model.pth"
    with (
        zipfile.ZipFile(save(tmp_path / "whole.pth", live_state_dict(SHAPE))) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(CheckpointError, match=r"model\.pth: it is a compressed archive"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emb.weight": torch.zeros(1).expand(2000, 2000)}, "its tensors claim 16,"),
        ({"emb.weight": torch.zeros(20, 64).to_sparse()}, "'emb.weight' is torch.sparse_coo on cpu"),
        ({7: torch.zeros(1)}, "no name that a model could have: 7"),
        ({"a\nb": torch.zeros(1)}, r"no name that a model could have: 'a\\nb'"),
        ({f"blocks.{'9' * 5000}.x": torch.zeros(1)}, "no name that a model could have: 'blocks.999"),
    ],
)
def test_readers__tensors_that_no_model_has(
    tmp_path: Path, reader: Any, changes: dict[Any, Any], message: str
) -> None:
    path = save(tmp_path / "file.pth", live_state_dict(SHAPE) | changes)
    with pytest.raises(CheckpointError, match=message):
        reader(path)


def nested(depth: int) -> tuple[Any, ...]:
    """A tuple that has 2^depth in it, each of them one of few: to hash it takes for ever."""
    made: tuple[Any, ...] = ()
    for _ in range(depth):
        made = (made, made)
    return made


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_readers__an_index_that_grows_as_it_is_read(tmp_path: Path, reader: Any, zipped: bool) -> None:
    path = save(tmp_path / "model.pth", live_state_dict(SHAPE) | {"x": nested(40)}, zipped=zipped)
    with pytest.raises(CheckpointError, match=r"model\.pth: its index uses a tuple twice"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_readers__an_index_larger_than_that_of_any_model(tmp_path: Path, reader: Any) -> None:
    path = save(tmp_path / "model.pth", live_state_dict(SHAPE) | {"x": "x" * 2**24})
    with pytest.raises(CheckpointError, match=r"model\.pth: its index has 16,78\d,\d{3} bytes"):
        reader(path)


def test_inspect__of_safetensors_needs_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", live_state_dict(SHAPE))
    code = (
        "import sys; import model, model.errors, model.settings, model.shapes, model.tokenizers\n"
        "from model import checkpoint, get_tokenizer\n"
        f"layers = checkpoint.inspect({str(path)!r}).n_layer\n"
        "print(layers, get_tokenizer('bytes').encode('a'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "2 [97] False"


def test_package__exports_every_name_lazily() -> None:
    import model

    assert all(getattr(model, name) is not None for name in model.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'gpt'"):
        model.gpt  # noqa: B018
