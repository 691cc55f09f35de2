"""Text to token ids."""

import threading
import time

import tokenizers

from serving.weights.tokenizer import encode


def test_other_threads_go_on_while_a_long_text_becomes_tokens() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    is_over, turns = threading.Event(), 0

    def go_on() -> None:
        nonlocal turns
        while not is_over.is_set():
            time.sleep(0.001)
            turns += 1

    other = threading.Thread(target=go_on)
    other.start()
    before = turns
    token_ids = encode(backend, "a b " * 200_000)
    took = turns - before
    is_over.set()
    other.join()
    assert token_ids == [0, 1] * 200_000
    assert took > 10
