"""A tokenizer from the metadata of a GGUF file, as the JSON that the tokenizers library reads.

Two kinds: byte-level BPE (gpt2), whose file carries its merges, and SentencePiece (llama), see sentencepiece.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from serving.weights.not_loaded import ModelNotLoaded
from serving.weights.sentencepiece import sentencepiece_tokenizer

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # values of tokenizer.ggml.token_type


@dataclass(frozen=True, slots=True)
class _Pre:
    """How a vocabulary's merges were learned, by tokenizer.ggml.pre.

    split           a text is cut in such pieces, and merges stay within one; "": in GPT-2's
    digits_apart    each digit is a piece
    composes        letters and their marks become one character, where there is one (NFC)
    whole_pieces    a piece that is a token is taken as it is, whatever the merges say
    begins          a bare text gets the token that begins one, where the file doesn't say
    """

    split: str = ""
    digits_apart: bool = False
    composes: bool = False
    whole_pieces: bool = False
    begins: bool = False


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_SIGNS}|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_PRES = {
    "smollm": _Pre(digits_apart=True),
    "default": _Pre(),
    "gpt-2": _Pre(),
    "llama3": _Pre(_LLAMA3, whole_pieces=True, begins=True),
    "llama-v3": _Pre(_LLAMA3, whole_pieces=True, begins=True),
    "llama-bpe": _Pre(_LLAMA3, whole_pieces=True, begins=True),
    "smaug-bpe": _Pre(_LLAMA3),  # SmolLM3
    "qwen2": _Pre(_QWEN2, composes=True),
    "deepseek-r1-qwen": _Pre(_QWEN2, composes=True),
    "tekken": _Pre(_TEKKEN, whole_pieces=True, begins=True),
}
# Names of special tokens in tokenizer_config.json, and the metadata that gives their ids.
_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def tokenizer_json(metadata: Mapping[str, Any]) -> str:
    """tokenizer.json's text. Raises ModelNotLoaded for a kind of tokenizer that is not known here."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2" and "tokenizer.ggml.merges" in metadata:
        pre = _pre(metadata)
        tokenizer, begins = _byte_level(metadata, pre), pre.begins
    elif kind == "llama" and "tokenizer.ggml.scores" in metadata:
        tokenizer, begins = sentencepiece_tokenizer(metadata), True
    else:
        raise ModelNotLoaded(
            f"the GGUF file's tokenizer is '{kind}'; expected 'gpt2' (byte-level BPE) with merges, or 'llama' "
            "(SentencePiece) with scores: use the model's Hugging Face folder"
        )
    tokenizer.add_special_tokens(_added(metadata, _CONTROL) + _added(metadata, _UNKNOWN))
    tokenizer.add_tokens(_added(metadata, _USER_DEFINED))
    around = _around(metadata, begins=begins)
    if around is not None:
        tokenizer.post_processor = around
    return str(tokenizer.to_str())


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json's content: the special tokens and the chat template."""
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    special = {name: tokens[metadata[key]] for name, key in _SPECIAL.items() if key in metadata}
    template = metadata.get("tokenizer.chat_template")
    return special if template is None else special | {"chat_template": template}


def _pre(metadata: Mapping[str, Any]) -> _Pre:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in _PRES:
        # A guess would give nearly the right tokens, and nearly the right answers.
        raise ModelNotLoaded(
            f"the GGUF file's pre-tokenizer is '{name}'; expected one of "
            f"{', '.join(_PRES)}: use the model's Hugging Face folder"
        )
    return _PRES[name]


def _byte_level(metadata: Mapping[str, Any], pre: _Pre) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    pairs = (merge.split(" ") for merge in metadata["tokenizer.ggml.merges"])
    merges = [(first, second) for first, second in pairs]
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=pre.whole_pieces))
    if pre.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _pieces(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(pre: _Pre) -> pre_tokenizers.PreTokenizer:
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pre.split)
    if pre.split:
        split = pre_tokenizers.Split(Regex(pre.split), behavior="isolated")
        return pre_tokenizers.Sequence([split, letters])
    if pre.digits_apart:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), letters])
    return letters


def _added(metadata: Mapping[str, Any], kind: int) -> list[AddedToken]:
    kinds = metadata.get("tokenizer.ggml.token_type", ())
    return [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, found in zip(metadata["tokenizer.ggml.tokens"], kinds, strict=False)
        if found == kind
    ]


def _around(metadata: Mapping[str, Any], *, begins: bool) -> processors.PostProcessor | None:
    """What a bare text gets in front and behind; None for nothing."""
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    bos, eos = (metadata.get(f"tokenizer.ggml.{which}_token_id") for which in ("bos", "eos"))
    front = _wanted(tokens, bos, metadata.get("tokenizer.ggml.add_bos_token", begins))
    behind = _wanted(tokens, eos, metadata.get("tokenizer.ggml.add_eos_token", False))
    if not front and not behind:
        return None
    return processors.TemplateProcessing(
        single=[*front, "$A", *behind],
        pair=[*front, "$A", *behind, *front, "$B", *behind],
        special_tokens=[(token, tokens.index(token)) for token in {*front, *behind}],
    )


def _wanted(tokens: Sequence[str], token_id: int | None, wanted: bool) -> list[str]:
    return [tokens[token_id]] if wanted and token_id is not None else []
