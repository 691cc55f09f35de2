"""Token ids to text as they come."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serving.engine.text import TextStream


def bytes_to_text(token_ids: Sequence[int]) -> str:
    """The smallest tokenizer: a token is a byte."""
    return bytes(token_ids).decode(errors="replace")


def stream(text: bytes, *stop: str) -> tuple[list[str], TextStream]:
    """What came out at each token and at the end."""
    answer = TextStream(bytes_to_text, stop)
    given_out = []
    for token in text:
        given_out.append(answer.push(token))
        if answer.stopped:
            break
    return [*given_out, answer.finish()], answer


def test_a_character_waits_for_its_last_byte() -> None:
    assert stream("aé日".encode())[0] == ["a", "", "é", "", "", "日", ""]


def test_bytes_that_never_became_a_character_come_at_the_end() -> None:
    assert stream("日".encode()[:2])[0] == ["", "", "\ufffd"]


@given(st.binary(max_size=40))
def test_the_pieces_are_the_text(text: bytes) -> None:
    assert "".join(stream(text)[0]) == bytes_to_text(text)


def test_nothing_of_a_stop_string_is_ever_given_out() -> None:
    pieces, answer = stream(b"one STOP two", "STOP")
    assert "".join(pieces) == "one "
    assert answer.stopped
    assert all("S" not in piece for piece in pieces)


def test_what_only_began_like_a_stop_string_is_given_out_after_all() -> None:
    pieces, answer = stream(b"one STO", "STOP")
    assert pieces[-4:] == ["", "", "", "STO"]
    assert not answer.stopped
    assert "".join(stream(b"SSTOX", "STOP")[0]) == "SSTOX"


def test_the_first_of_several_stop_strings_counts() -> None:
    assert "".join(stream(b"a\nb END", "END", "\n")[0]) == "a"


@given(st.text("abS", max_size=20), st.lists(st.text("abS", min_size=1, max_size=3), max_size=3))
def test_the_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stop: list[str]
) -> None:
    pieces, answer = stream(text.encode(), *stop)
    shortest = next(
        (text[:end] for end in range(len(text) + 1) if any(s in text[:end] for s in stop)), None
    )
    if shortest is None:
        assert "".join(pieces) == text
    else:
        assert "".join(pieces) == shortest[: min(shortest.find(s) for s in stop if s in shortest)]
        assert answer.stopped
