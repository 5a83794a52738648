from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import TokenizerError
from model.tokenizers import Bytes, Tokenizer, World, get_tokenizer

WORLD = World()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("tokenizer", [Bytes(), WORLD], ids=lambda tokenizer: tokenizer.name)
@given(text=TEXTS)
def test_decode__gives_back_what_was_encoded(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == text


def test_encode__bytes_are_utf8() -> None:
    assert Bytes().encode("aé") == [97, 195, 169]


def test_encode__world_is_the_longest_match() -> None:
    assert WORLD.encode("hello 你好") == [34550, 33, 10464, 11685]


def test_encode__world_agrees_with_the_official_tokenizer(shared_data: Path) -> None:
    from rwkv import rwkv_tokenizer

    vocabulary = Path(rwkv_tokenizer.__file__).with_name("rwkv_vocab_v20230424.txt")
    official = rwkv_tokenizer.TRIE_TOKENIZER(str(vocabulary))
    text = (shared_data / "text" / "wikitext2_raw_test.txt").read_text(encoding="utf-8")[:20000]
    ids = WORLD.encode(text)
    assert ids == official.encode(text)
    assert WORLD.decode(ids) == official.decode(ids)


def test_decode__broken_utf8_becomes_a_replacement() -> None:
    assert Bytes().decode([97, 195]) == "a\ufffd"
    assert WORLD.decode([98, 129, 98]) == "a\ufffda"  # ids 1 to 256 are the bytes


def test_decode__ids_of_world_without_text() -> None:
    assert WORLD.decode([34550, 0]) == "hello"
    assert WORLD.decode([65530, 65535]) == "\ufffd\ufffd"


@pytest.mark.parametrize(("tokenizer", "token"), [(Bytes(), 256), (Bytes(), -1), (WORLD, 65536)])
def test_decode__ids_out_of_range(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=f"token {token} at position 1 is outside the {tokenizer.name}"):
        tokenizer.decode([5, token])


@pytest.mark.parametrize("tokenizer", [Bytes(), WORLD], ids=lambda tokenizer: tokenizer.name)
def test_encode_symbols__never_merges(tokenizer: Tokenizer) -> None:
    symbols = "HHHHEEEE~~0011ABCD"
    ids = tokenizer.encode_symbols(symbols)
    assert len(ids) == len(symbols)
    assert [tokenizer.decode([token]) for token in ids] == list(symbols)


def test_encode_symbols__more_than_one_token() -> None:
    with pytest.raises(TokenizerError, match=r"symbol 'é' \(U\+00E9\) at position 1 is 2 tokens of bytes"):
        Bytes().encode_symbols("aé")
    with pytest.raises(TokenizerError, match=r"symbol '🦀' .* of world: expected exactly one"):
        WORLD.encode_symbols("🦀")


@pytest.mark.parametrize("tokenizer", [Bytes(), WORLD], ids=lambda tokenizer: tokenizer.name)
def test_encode__half_a_surrogate_pair(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="at position 1 is half a surrogate pair"):
        tokenizer.encode("a\ud800")


def test_get_tokenizer__by_name() -> None:
    assert isinstance(get_tokenizer("bytes"), Bytes)
    assert isinstance(get_tokenizer("world"), World)
    with pytest.raises(TokenizerError, match="unknown tokenizer 'gpt2': expected one of bytes, world"):
        get_tokenizer("gpt2")
