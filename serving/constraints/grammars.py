"""Answers that must belong to a language: JSON, a JSON schema, a regular expression, a grammar, tool calls.

    Grammars   a model's compiled constraints
    Matcher    one answer on its way through a constraint: which tokens may come next

xgrammar does the matching; grammar_process.py compiles, where it can be ended.
"""

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from serving.constraints.grammar_process import GrammarProcess, tokenizer_info
from serving.constraints.schema_check import check_schema
from serving.engine.request import CompilerBusy, Constraint, ConstraintKind, RequestRefused
from serving.weights.tokenizer import Tokenizer

if TYPE_CHECKING:
    import xgrammar

TokenId = Callable[[str], int | None]

MOST_IN_LINE = 8  # constraints that are compiled or wait for it
_MOST_CHARACTERS = 1 << 18
_CACHE_BYTES = 256 << 20
_REMEMBERED_REFUSALS = 256
# Special tokens are no text: said inside a string, the decoder would drop them. Written as the byte 0xFF, which no
# UTF-8 holds, a constraint can only ask for them by id; a raw vocabulary can't be written so, and they are forbidden.
_NO_TEXT = {"BYTE_LEVEL": "ÿ", "BYTE_FALLBACK": "<0xFF>", "RAW": ""}
_NAMES_TOKENS = frozenset({"token", "trigger_tokens", "exclude_tokens"})
_ANY_OBJECT = '{"type": "object"}'


class Grammars:
    """A model's compiled constraints. Safe in threads.

    vocab_size        the columns of the model's logits, of which the tokenizer may know fewer: the others are
                      never allowed, nor are special tokens other than those that end an answer, since they are no text.
    compile_seconds   what one constraint may take
    """

    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, *, compile_seconds: float = 10.0
    ) -> None:
        vocabulary = _vocabulary(tokenizer, vocab_size)
        self._token_id: TokenId = tokenizer.backend.token_to_id
        self._info = tokenizer_info(vocabulary)
        self._process = GrammarProcess(vocabulary, compile_seconds)
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Constraint, xgrammar.CompiledGrammar] = OrderedDict()
        self._refused: OrderedDict[Constraint, str] = OrderedDict()
        self._in_line = 0
        self._is_closed = False
        self._compiling = threading.Lock()

    def matcher(self, constraint: Constraint) -> "Matcher":
        """A matcher at the beginning of an answer. May take seconds, where the constraint is new.

        Raises RequestRefused: what is wrong with the schema, regex or grammar, or that it is too heavy; and CompilerBusy.
        """
        grammar = self._known(constraint)
        if grammar is None:
            with self._turn_to_compile():
                # who came before may have brought the same
                grammar = self._known(constraint) or self._compile(constraint)
        return Matcher(grammar)

    def close(self) -> None:
        """End the process that compiles, and the line before it."""
        self._is_closed = True
        self._process.close()

    def _known(self, constraint: Constraint) -> "xgrammar.CompiledGrammar | None":
        """The compiled one, if there is one. Raises RequestRefused where it was refused before."""
        with self._lock:
            grammar = self._compiled.get(constraint)
            if grammar is not None:
                self._compiled.move_to_end(constraint)
            refusal = self._refused.get(constraint)
        if refusal is not None:
            raise RequestRefused(refusal)
        return grammar

    @contextlib.contextmanager
    def _turn_to_compile(self) -> Iterator[None]:
        """One at a time; raises CompilerBusy where too many wait already."""
        with self._lock:
            if self._in_line >= MOST_IN_LINE:
                raise CompilerBusy(
                    f"{self._in_line} new constraints are being compiled, one after the other; try again later"
                )
            self._in_line += 1
        try:
            with self._compiling:
                self._check_that_it_is_open()
                yield
        except (RequestRefused, RuntimeError):
            self._check_that_it_is_open()  # or it is no fault of the constraint's
            raise
        finally:
            with self._lock:
                self._in_line -= 1

    def _check_that_it_is_open(self) -> None:
        if self._is_closed:
            raise CompilerBusy("the engine is stopping; try again later")

    def _compile(self, constraint: Constraint) -> "xgrammar.CompiledGrammar":
        import xgrammar

        try:
            serialized = self._process.compile(*_source(constraint, self._token_id))
        except RequestRefused as refusal:
            self._remember_refusal(constraint, str(refusal))
            raise
        grammar = xgrammar.CompiledGrammar.deserialize_json(serialized, self._info)
        with self._lock:
            self._compiled[constraint] = grammar
            while self._cached_bytes() > _CACHE_BYTES:
                self._compiled.popitem(last=False)
        return grammar

    def _cached_bytes(self) -> int:
        return sum(each.memory_size_bytes for each in self._compiled.values())

    def _remember_refusal(self, constraint: Constraint, message: str) -> None:
        """So that who sends it again and again keeps nobody's compiler busy."""
        with self._lock:
            self._refused[constraint] = message
            while len(self._refused) > _REMEMBERED_REFUSALS:
                self._refused.popitem(last=False)


class Matcher:
    """One answer on its way through a constraint."""

    def __init__(self, grammar: "xgrammar.CompiledGrammar") -> None:
        import xgrammar

        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._words = (grammar.tokenizer_info.vocab_size + 31) // 32
        self._without_stops = torch.full((self._words,), -1, dtype=torch.int32)
        for token_id in self._matcher.stop_token_ids:
            self._without_stops[token_id // 32] &= ~_bit(token_id % 32)

    def mask(self) -> Tensor | None:
        """Which tokens may come next: int32 [ceil(vocab_size / 32)], a bit a token, lowest first; None: all may.

        A new tensor each time, so a step that is under way keeps its own. Nothing may come after the end.
        """
        mask = torch.zeros((1, self._words), dtype=torch.int32)
        if self._matcher.is_terminated():
            return mask[0]
        return mask[0] if self._matcher.fill_next_token_bitmask(mask) else None

    def accept(self, token_id: int) -> None:
        """Go on by a token that mask() allows. Raises ValueError for another, and stays where it is."""
        if not self._matcher.accept_token(token_id):
            raise ValueError(f"token {token_id} is not what the constraint allows here")

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete and only the end may follow, or has."""
        if self._matcher.is_terminated():
            return True
        mask = self.mask() if self._matcher.is_completed() else None
        return mask is not None and not bool((mask & self._without_stops).any())


def _bit(index: int) -> int:
    """1 << index as int32 has it."""
    return (1 << index) - (1 << 32 if index == 31 else 0)


def _source(constraint: Constraint, token_id: TokenId) -> tuple[str, str]:
    """(kind, text) for the compiler. Raises RequestRefused."""
    kind, text = constraint.kind, constraint.text
    if len(text) > _MOST_CHARACTERS:
        raise RequestRefused(
            f"the {kind} has {len(text)} characters; at most {_MOST_CHARACTERS} are allowed"
        )
    if kind is ConstraintKind.JSON:
        return ConstraintKind.JSON_SCHEMA.value, _ANY_OBJECT
    if kind is ConstraintKind.JSON_SCHEMA:
        check_schema(_parsed(kind, text))
    if kind is ConstraintKind.STRUCTURAL_TAG:
        return kind.value, json.dumps(_prepared(_parsed(kind, text), token_id))
    return kind.value, text


def _parsed(kind: ConstraintKind, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the {kind} can't be used: it is no JSON: {error}") from error


def _prepared(tag: Any, token_id: TokenId) -> Any:
    """A structural tag with its schemas checked, and its tokens named by id, since special ones have no text here."""
    if isinstance(tag, list):
        return [_prepared(each, token_id) for each in tag]
    if not isinstance(tag, dict):
        return tag
    if "json_schema" in tag:
        check_schema(tag["json_schema"])
        return tag
    return {
        name: _numbered(each, token_id) if name in _NAMES_TOKENS else _prepared(each, token_id)
        for name, each in tag.items()
    }


def _numbered(token: Any, token_id: TokenId) -> Any:
    if isinstance(token, list):
        return [_numbered(each, token_id) for each in token]
    if not isinstance(token, str):
        return token
    found = token_id(token)
    if found is None:
        raise RequestRefused(f"the structural_tag can't be used: the model has no token {token!r}")
    return found


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Any]:
    """What tokenizer_info() takes."""
    description = json.loads(tokenizer.backend.to_str())
    kind = _how_bytes_are_spelt(description.get("decoder"))
    special = {
        each["content"]: each["id"] for each in description["added_tokens"] if each["special"]
    }
    tokens = [""] * vocab_size
    for text, token_id in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        if token_id < vocab_size:
            tokens[token_id] = _NO_TEXT[kind] if text in special else text
    return {
        "tokens": tokens,
        "kind": kind,
        "vocab_size": vocab_size,
        "stop_token_ids": sorted(tokenizer.eos_token_ids) or None,
    }


def _how_bytes_are_spelt(decoder: Any) -> str:
    """The name of xgrammar's VocabType, from a tokenizer.json's decoder."""
    kinds = set(_types(decoder))
    if "ByteLevel" in kinds:
        return "BYTE_LEVEL"
    # "▁" for a space, and perhaps "<0x0A>" for a byte
    return "BYTE_FALLBACK" if kinds & {"ByteFallback", "Metaspace", "Replace"} else "RAW"


def _types(decoder: Any) -> Sequence[str]:
    if not isinstance(decoder, dict):
        return ()
    below = [kind for each in decoder.get("decoders", ()) for kind in _types(each)]
    return [decoder.get("type", ""), *below]
