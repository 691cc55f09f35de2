"""Tokenizers from GGUF's metadata: text is cut and joined as the models learned it."""

from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from serving.weights import ModelNotLoaded
from serving.weights.gguf_tokenizer import tokenizer_json

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def byte_level(pre: str, *merges: str, **more: Any) -> tokenizers.Tokenizer:
    tokens = [*BYTES, *(merge.replace(" ", "") for merge in merges), "<begin>", "<tool>"]
    return tokenizers.Tokenizer.from_str(
        tokenizer_json(
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.merges": list(merges),
                "tokenizer.ggml.token_type": [NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED],
                "tokenizer.ggml.bos_token_id": len(tokens) - 2,
                **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
            }
        )
    )


def pieces(tokenizer: tokenizers.Tokenizer, text: str) -> list[str]:
    backend = tokenizer.pre_tokenizer
    return [text[begin:end] for _, (begin, end) in backend.pre_tokenize_str(text)]


TEXT = "HelloWorld's 12345 it'S  x+y\n\n /a"


@pytest.mark.parametrize(
    ("pre", "wanted"),
    [
        ("gpt-2", "HelloWorld|'s| 12345| it|'|S| | x|+|y|\n\n| /|a"),
        ("smollm", "HelloWorld|'s| |1|2|3|4|5| it|'|S| | x|+|y|\n\n| /|a"),
        ("llama-bpe", "HelloWorld|'s| |123|45| it|'S| | x|+y|\n\n| /|a"),
        ("qwen2", "HelloWorld|'s| |1|2|3|4|5| it|'S| | x|+y|\n\n| /|a"),
        ("tekken", "Hello|World|'s| |1|2|3|4|5| it|'S| | x|+y|\n\n| /|a"),
    ],
)
def test_a_text_is_cut_as_the_models_vocabulary_was_learned(pre: str, wanted: str) -> None:
    assert "|".join(pieces(byte_level(pre), TEXT)) == wanted


def test_qwen_composes_letters_and_their_marks() -> None:
    assert byte_level("qwen2").encode("e\u0301").ids == byte_level("qwen2").encode("é").ids
    assert byte_level("gpt-2").encode("e\u0301").ids != byte_level("gpt-2").encode("é").ids


def test_llama_3_takes_a_piece_that_is_a_token_whatever_the_merges_say() -> None:
    # From left to right, "a b" comes first and "abc" is never joined.
    merges = ("a b", "b c", "a bc")
    assert byte_level("smaug-bpe", *merges).encode("abc").tokens == ["ab", "c"]
    assert byte_level("llama-bpe", *merges).encode("abc").tokens == ["<begin>", "abc"]


def test_the_file_says_what_stands_around_a_text_and_else_its_kind() -> None:
    assert byte_level("llama-bpe").encode("a").tokens == ["<begin>", "a"]
    assert byte_level("llama-bpe", add_bos_token=False).encode("a").tokens == ["a"]
    assert byte_level("qwen2").encode("a").tokens == ["a"]
    ends = {"add_bos_token": True, "add_eos_token": True, "eos_token_id": 0}
    assert byte_level("qwen2", **ends).encode("a").tokens == ["<begin>", "a", BYTES[0]]


def test_added_tokens_are_one_token_and_only_control_is_left_out_of_text() -> None:
    tokenizer = byte_level("qwen2")
    ids = tokenizer.encode("a<begin>b<tool>").ids
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "ab<tool>"


@given(st.text())
def test_bytes_come_back_as_the_text_that_they_were(text: str) -> None:
    tokenizer = byte_level("llama-bpe", "t h", "th e", "Ġ the")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


PIECES = ["▁", "a", "b", "c", "▁a", "ab", "bc", "abc", "▁ab", "▁abc", "ca", "cab", "ba"]


def sentencepiece(pieces: list[str] = PIECES, **more: Any) -> tokenizers.Tokenizer:
    """A vocabulary in whose order scores fall; bytes and control in front, as Llama 2 has them."""
    front = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = front + pieces
    return tokenizers.Tokenizer.from_str(
        tokenizer_json(
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.scores": [0.0] * len(front)
                + [-float(i) for i in range(len(pieces))],
                "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL]
                + [BYTE] * 256
                + [NORMAL] * len(pieces),
                "tokenizer.ggml.bos_token_id": 1,
                "tokenizer.ggml.eos_token_id": 2,
                **{f"tokenizer.ggml.{name}": value for name, value in more.items()},
            }
        )
    )


def joined_by_score(text: str, pieces: list[str]) -> list[str]:
    """SentencePiece's own rule: join the neighbours whose piece has the best score, the leftmost first."""
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [first + second for first, second in pairwise(symbols)]
        known = [pieces.index(pair) for pair in pairs if pair in pieces]
        if not known:
            return symbols
        place = pairs.index(pieces[min(known)])
        symbols[place : place + 2] = [pairs[place]]


@given(st.text("abc ", min_size=1, max_size=12), st.permutations(PIECES))
def test_pieces_are_joined_by_their_score(text: str, pieces: list[str]) -> None:
    tokens = sentencepiece(pieces).encode(text, add_special_tokens=False).tokens
    assert tokens == joined_by_score(text, pieces)


@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), min_size=1))
def test_what_is_in_no_piece_is_spelt_in_bytes_and_comes_back(text: str) -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text


def test_a_sentencepiece_text_begins_with_its_token_and_a_space() -> None:
    assert sentencepiece().encode("abc").tokens == ["<s>", "▁abc"]
    assert sentencepiece(add_bos_token=False).encode("abc").tokens == ["▁abc"]
    assert sentencepiece(add_space_prefix=False).encode("abc").tokens == ["<s>", "abc"]
    assert sentencepiece().encode("日").tokens[2:] == ["<0xE6>", "<0x97>", "<0xA5>"]


@pytest.mark.parametrize("model", ["bert", "gpt2", "llama", "rwkv"])
def test_another_kind_of_tokenizer_is_refused(model: str) -> None:
    with pytest.raises(ModelNotLoaded, match=f"tokenizer is '{model}'; expected 'gpt2'"):
        tokenizer_json({"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": ["a"]})
