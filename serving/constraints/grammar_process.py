"""Compiles grammars in a process of its own, which can be ended.

A schema or a regular expression comes from anybody. A few hundred bytes of it can keep a compiler busy for hours, fill
the memory, or give a grammar that takes seconds for every token, and a call into C++ can't be interrupted. So another
process compiles, tries the grammar out, and is ended when that takes too long. What passed comes back as text.

    GrammarProcess   the engine's side: text of a constraint → serialized grammar, or RequestRefused
    main             the other side: reads lines of JSON, answers each with a line
"""

import contextlib
import json
import os
import random
import re
import resource
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.engine.request import RequestRefused

if TYPE_CHECKING:
    import xgrammar

_START_SECONDS = 60.0  # to import torch and xgrammar on a busy machine
_MEMORY_BYTES = 4 << 30  # of addresses, most of which are libraries
_GRAMMAR_BYTES = 32 << 20
_TRIAL_TOKENS = 100
_TRIAL_CPU_SECONDS = 1.0  # 10 ms a token; an ordinary schema takes a hundredth of this
_BARE_LETTERS = re.compile(re.escape(r"characters ::= (([^\"\\\r\n]))"))
_JSON_LETTERS = r'characters ::= (([^\\0-\\x1f\\"\\\\]) | ("\\\\" basic_escape))'
_CHUNK_BYTES = 1 << 20
Ids = NDArray[np.int64]
_WHERE = re.compile(r"\[[\d:]+\] \S+?:\d+: |Check failed: \(.*?\) is (?:true|false): ")


class GrammarProcess:
    """One compiler, started when it is first needed, and again after it had to be ended. Safe in threads."""

    def __init__(self, vocabulary: Mapping[str, Any], seconds: float) -> None:
        """vocabulary   the arguments of xgrammar's TokenizerInfo, as JSON takes them."""
        self._vocabulary, self._seconds = vocabulary, seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = _nothing

    def compile(self, kind: str, text: str) -> str:
        """The serialized grammar. Raises RequestRefused: what is wrong with it, or that it is too heavy."""
        with self._lock:
            process = self._process or self._started()
            answer = _ask(process, {"kind": kind, "text": text}, self._seconds)
            if answer is None:
                self.close()
                raise RequestRefused(
                    f"the {kind} takes more than {self._seconds:g} s, or too much memory, to compile and try out; make it simpler"
                )
        if "refused" in answer:
            raise RequestRefused(f"the {kind} can't be used: {answer['refused']}")
        return str(answer["grammar"])

    def close(self) -> None:
        """End the process. The next compile() starts another."""
        self._end()
        self._process, self._end = None, _nothing

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.constraints.grammar_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it would quote what people asked
        )
        self._process, self._end = process, weakref.finalize(self, partial(_kill, process))
        if _ask(process, self._vocabulary, _START_SECONDS) is None:
            self.close()
            raise RuntimeError(
                "the process that compiles grammars did not start; try: python -m serving.constraints.grammar_process"
            )
        return process


def _nothing() -> None:
    pass


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _ask(
    process: subprocess.Popen[bytes], question: Mapping[str, Any], seconds: float
) -> Mapping[str, Any] | None:
    """The answer; None where none comes in time, or the process ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = _line(process.stdout, time.monotonic() + seconds)
    return None if line is None else json.loads(line)


def _line(pipe: IO[bytes], until: float) -> bytes | None:
    chunks: list[bytes] = []
    while not (chunks and chunks[-1].endswith(b"\n")):
        if not select.select([pipe], [], [], max(until - time.monotonic(), 0.0))[0]:
            return None
        chunks.append(os.read(pipe.fileno(), _CHUNK_BYTES))
        if not chunks[-1]:
            return None
    return b"".join(chunks)


def main() -> None:
    """Answer until the engine closes the pipe, which it does by ending, too."""
    with contextlib.suppress(ValueError, OSError):  # where the system has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    for answer in _answers(sys.stdin.buffer):
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answers(questions: IO[bytes]) -> Iterator[Mapping[str, str]]:
    import xgrammar

    tokenizer = tokenizer_info(json.loads(questions.readline()))
    threads = min(4, os.cpu_count() or 1)
    compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=threads, cache_enabled=False)
    lengths = np.array([len(text) for text in tokenizer.decoded_vocab])
    yield {}
    for question in questions:
        try:
            yield {"grammar": _compiled(compiler, lengths, **json.loads(question))}
        except (RequestRefused, RuntimeError, ValueError, MemoryError) as error:
            yield {"refused": _plain(str(error))}


def tokenizer_info(vocabulary: Mapping[str, Any]) -> "xgrammar.TokenizerInfo":
    import xgrammar

    kind = xgrammar.VocabType[vocabulary["kind"]]
    return xgrammar.TokenizerInfo(
        vocabulary["tokens"],
        kind,
        vocab_size=vocabulary["vocab_size"],
        stop_token_ids=vocabulary["stop_token_ids"],
    )


def _compiled(compiler: "xgrammar.GrammarCompiler", lengths: Ids, kind: str, text: str) -> str:
    grammar = compiler.compile_grammar(_parsed(kind, text))
    if grammar.memory_size_bytes > _GRAMMAR_BYTES:
        raise RequestRefused(
            f"it takes {grammar.memory_size_bytes >> 20} MiB; at most {_GRAMMAR_BYTES >> 20} are allowed"
        )
    _try_out(grammar, lengths)
    return str(grammar.serialize_json())


def _parsed(kind: str, text: str) -> "xgrammar.Grammar":
    import xgrammar

    parsers: Mapping[str, Callable[[str], xgrammar.Grammar]] = {
        "json_schema": xgrammar.Grammar.from_json_schema,
        "regex": xgrammar.Grammar.from_regex,
        "grammar": xgrammar.Grammar.from_ebnf,
        "structural_tag": xgrammar.Grammar.from_structural_tag,
    }
    grammar = parsers[kind](text)
    if kind not in ("json_schema", "structural_tag") or not _BARE_LETTERS.search(str(grammar)):
        return grammar
    # A string of bounded length may hold raw control characters in xgrammar 0.2, which is no JSON, and no escapes.
    return xgrammar.Grammar.from_ebnf(_BARE_LETTERS.sub(_JSON_LETTERS, str(grammar)))


def _try_out(grammar: "xgrammar.CompiledGrammar", lengths: Ids) -> None:
    """Walk through it: some grammars compile at once and then take seconds for a token.

    Once by any tokens, once by the longest ones, which press the most alternatives on it.
    """
    until, dice = time.process_time() + _TRIAL_CPU_SECONDS, random.Random(0)  # noqa: S311 — no secret
    _walk(grammar, until, lambda allowed: int(dice.choice(allowed)))
    _walk(grammar, until, lambda allowed: int(allowed[lengths[allowed].argmax()]))


def _walk(grammar: "xgrammar.CompiledGrammar", until: float, choose: Callable[[Ids], int]) -> None:
    import xgrammar

    matcher = xgrammar.GrammarMatcher(grammar)
    for steps in range(_TRIAL_TOKENS):
        allowed = _allowed(matcher, grammar.tokenizer_info.vocab_size)
        if not len(allowed):
            raise RequestRefused("no answer matches it")
        matcher.accept_token(choose(allowed))
        if matcher.is_terminated():
            break
        if time.process_time() > until:
            raise RequestRefused(f"matching {steps} tokens takes {_TRIAL_CPU_SECONDS:g} s")


def _allowed(matcher: "xgrammar.GrammarMatcher", vocab_size: int) -> Ids:
    import xgrammar

    mask = xgrammar.allocate_token_bitmask(1, vocab_size)
    matcher.fill_next_token_bitmask(mask)
    bits = np.unpackbits(mask[0].numpy().view(np.uint8), count=vocab_size, bitorder="little")
    return np.flatnonzero(bits)


def _plain(message: str) -> str:
    """What xgrammar says, without the time and the place in its source."""
    return _WHERE.sub("", message).strip()[:1_000]


if __name__ == "__main__":
    main()
