"""A tokenizer from the metadata of a GGUF file, as the JSON that the tokenizers library reads."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from serving.weights.not_loaded import ModelNotLoaded

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type

# How a vocabulary's merges were learned, by tokenizer.ggml.pre.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, use_regex: bool = True) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _digits_apart() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated")
    return pre_tokenizers.Sequence([split, _byte_level(use_regex=False)])


_PRE_TOKENIZERS = {
    "smollm": _digits_apart,
    "default": _byte_level,
    "gpt-2": _byte_level,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "llama-bpe": _llama3,
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
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    tokenizer = Tokenizer(BPE(_vocabulary(tokens), _merges(metadata)))
    tokenizer.pre_tokenizer = _pre_tokenizer(metadata)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_added(metadata, _CONTROL))
    tokenizer.add_tokens(_added(metadata, _USER_DEFINED))
    if metadata.get("tokenizer.ggml.add_bos_token"):
        tokenizer.post_processor = _begin_with(tokens, metadata["tokenizer.ggml.bos_token_id"])
    return str(tokenizer.to_str())


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json's content: the special tokens and the chat template."""
    tokens: Sequence[str] = metadata["tokenizer.ggml.tokens"]
    special = {name: tokens[metadata[key]] for name, key in _SPECIAL.items() if key in metadata}
    template = metadata.get("tokenizer.chat_template")
    return special if template is None else special | {"chat_template": template}


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2" or "tokenizer.ggml.merges" not in metadata:
        raise ModelNotLoaded(
            f"the GGUF file's tokenizer is '{kind}'; expected 'gpt2' (byte-level BPE) with merges: "
            "use the model's Hugging Face folder"
        )
    pairs = (merge.split(" ") for merge in metadata["tokenizer.ggml.merges"])
    return [(first, second) for first, second in pairs]


def _pre_tokenizer(metadata: Mapping[str, Any]) -> pre_tokenizers.PreTokenizer:
    kind = metadata.get("tokenizer.ggml.pre", "default")
    if kind not in _PRE_TOKENIZERS:
        # A guess would give nearly the right tokens, and nearly the right answers.
        raise ModelNotLoaded(
            f"the GGUF file's pre-tokenizer is '{kind}'; expected one of "
            f"{', '.join(_PRE_TOKENIZERS)}: use the model's Hugging Face folder"
        )
    return _PRE_TOKENIZERS[kind]()


def _added(metadata: Mapping[str, Any], kind: int) -> list[AddedToken]:
    kinds = metadata.get("tokenizer.ggml.token_type", ())
    return [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, found in zip(metadata["tokenizer.ggml.tokens"], kinds, strict=False)
        if found == kind
    ]


def _begin_with(tokens: Sequence[str], bos_token_id: int) -> processors.PostProcessor:
    bos = tokens[bos_token_id]
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_token_id)]
    )
