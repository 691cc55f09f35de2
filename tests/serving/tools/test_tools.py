"""Tools: what the model is told, and its calls told from its text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from serving.engine.request import RequestRefused
from serving.server.tools import NONE, REQUIRED, Tool, Tools
from serving.tools.formats import HERMES, LLAMA, MISTRAL, ToolFormat, constraint_of, format_of
from serving.tools.reader import CallPart, CallsOrOtherReader, ToolReader
from serving.tools.use import ToolUse, told_in_text
from serving.weights.checkpoint import Checkpoint
from serving.weights.tokenizer import Tokenizer

# What the published templates do with tools, shortened.
QWEN = """{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools> answer within <tool_call></tool_call><|im_end|>
{% endif %}{% for message in messages %}{% if message.role != 'system' %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}"""
LLAMA_3 = """{%- if tools %}Respond in the format {"name": function name, "parameters": dictionary of \
argument name and its value}. {{ tools | length }} functions.{% endif %}{{ messages[0].content }}"""
MISTRAL_3 = """{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS][\
{% for call in message.tool_calls %}{% if call.id | length != 9 %}\
{{ raise_exception("ids have 9 letters") }}{% endif %}{"id": "{{ call.id }}"}{% endfor %}]\
{% elif message.tool_call_id %}[{{ message.tool_call_id }}]{% else %}{{ message.content }}\
{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"""
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", CITY, "of a city")
TIME = Tool("time", {"type": "object", "properties": {}})
BOTH = Tools((WEATHER, TIME))
FORMATS = [HERMES, LLAMA, MISTRAL]


def tokenizer(template: Any) -> Tokenizer:
    """Every byte is a token."""
    alphabet = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    backend = Backend(BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    return Tokenizer(Checkpoint({}, {}, backend.to_str(), {"chat_template": template}))


def prompt(template: Any, messages: list[Any], tools: Tools = BOTH) -> str:
    spoken = tokenizer(template)
    backwards = {code: letter for letter, code in _bytes().items()}
    ids = ToolUse(spoken).encode_chat(messages, tools)
    return bytes(backwards[spoken.backend.id_to_token(each)] for each in ids).decode()


def _bytes() -> dict[int, str]:
    """Byte-level alphabets write printable bytes as themselves and the others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """(text, calls as name and arguments)."""
    reader = ToolReader(form, ["weather", "time"], iter("abcdefgh").__next__)
    told = [reader.push(piece) for piece in pieces] + [reader.finish()]
    calls: list[tuple[str, str]] = []
    for part in (part for _, parts in told for part in parts):
        if part.begins:
            assert part.index == len(calls)
            calls.append((part.name, ""))
        name, arguments = calls[part.index]
        calls[part.index] = (name, arguments + part.arguments)
    return "".join(text for text, _ in told), calls


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (QWEN, HERMES),
        (LLAMA_3, LLAMA),
        (MISTRAL_3, MISTRAL),
        (CHATML, None),
        (None, None),
        (MISTRAL_3 + "[ARGS]", None),
        (QWEN + "<function=", None),
        ("{{ tools }}", None),
    ],
)
def test_the_template_tells_the_format(template: str | None, form: ToolFormat | None) -> None:
    assert format_of(template) == form


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
calls_made = st.lists(
    st.tuples(
        st.sampled_from(["weather", "time"]),
        st.builds(
            lambda arguments, spaced: json.dumps(
                arguments, ensure_ascii=spaced, indent=2 if spaced else None
            ),
            st.dictionaries(st.text(max_size=5), values, max_size=3),
            st.booleans(),
        ),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("form", FORMATS)
@given(
    calls=calls_made,
    said=st.sampled_from(["", "I look it up:", "a {b} <tool [TOO"]),
    data=st.data(),
)
def test_calls_that_are_written_are_read_again_however_they_are_cut(
    form: ToolFormat, calls: list[tuple[str, str]], said: str, data: st.DataObject
) -> None:
    text = f"{said}\n{form.written(calls)}\n"
    for pieces in (cut(text, data), [text], list(text)):
        assert read(form, pieces) == (said, calls)


lookalikes = st.lists(
    st.sampled_from(
        [
            "<tool_call>",
            "</tool_call>",
            "[TOOL_CALLS]",
            "[",
            "]",
            '{"name": ',
            '{"name":"weather","parameters":',
            '"time", "arguments": ',
            '{"name": "other", "arguments": {}}',
            "{}",
            '{"city": "Rome"}',
            "}",
            ", ",
            "; ",
            "\n",
            "  ",
            "plain",
            '"',
        ]
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("form", FORMATS)
@given(text=lookalikes, data=st.data())
def test_the_pieces_of_an_answer_give_what_the_whole_gives(
    form: ToolFormat, text: str, data: st.DataObject
) -> None:
    whole = read(form, [text])
    assert read(form, cut(text, data)) == whole
    assert read(form, list(text)) == whole
    if not whole[1]:
        assert whole[0] == text


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "other", "arguments": {"a": 1}}\n</tool_call>'),
        (HERMES, "<tool_call> is how they call tools" + " and more" * 50),
        (HERMES, '<tool_call>\n{"name": "wea'),
        (LLAMA, '{"name": "Bob", "age": 3}'),
        (MISTRAL, '[{"name": "Bob"}, 3]'),
        (HERMES, "  ends with spaces \n"),
    ],
)
def test_what_is_no_call_of_a_tool_is_text_to_the_last_letter(form: ToolFormat, text: str) -> None:
    assert read(form, [text]) == (text, [])
    assert read(form, list(text)) == (text, [])


def test_arguments_are_told_as_they_come() -> None:
    reader = ToolReader(HERMES, ["weather"], lambda: "id")
    assert reader.push("Well.\n<tool") == ("Well.", ())
    assert reader.push('_call>\n{"name": "weather", "arguments": {"ci') == (
        "",
        (CallPart(0, "id", "weather"), CallPart(0, arguments='{"ci')),
    )
    assert reader.push('ty": "}"') == ("", (CallPart(0, arguments='ty": "}"'),))
    assert reader.push("}}\n</tool_call>") == ("", (CallPart(0, arguments="}"),))
    assert reader.finish() == ("", ())


def test_a_call_that_was_cut_off_keeps_what_there_is() -> None:
    text = 'x\n<tool_call>\n{"name": "weather", "arguments": {"city": "Ro'
    assert read(HERMES, [text]) == ("x", [("weather", '{"city": "Ro')])
    whole = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool'
    assert read(HERMES, [whole]) == ("", [("time", "{}")])


def test_calls_of_mistral_are_read_where_the_decoder_dropped_their_marker() -> None:
    text = MISTRAL.written([("time", "{}"), ("weather", '{"city": "X"}')])
    calls = [("time", "{}"), ("weather", '{"city": "X"}')]
    assert read(MISTRAL, [text.removeprefix("[TOOL_CALLS]")]) == ("", calls)


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Bern?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "x", "function": {"name": "weather", "arguments": {"city": "é"}}}
            ],
        },
    ]
    text = prompt(QWEN, messages)
    assert json.dumps(WEATHER.for_template()) in text
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "é"}}\n</tool_call>' in text


def test_a_template_of_its_own_for_tools_is_taken_where_there_are_tools() -> None:
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": QWEN}]
    messages = [{"role": "user", "content": "Hi"}]
    assert "<tools>" in prompt(named, messages)
    assert "<tools>" not in tokenizer(named).chat_prompt(messages)


def test_mistral_gets_ids_of_nine_letters_that_still_match() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_123", "function": {"name": "time", "arguments": {}}}],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "call_123"},
    ]
    text = prompt(MISTRAL_3, messages)
    (written,) = json.loads(text[text.index("[TOOL_CALLS]") + 12 :].split("][")[0] + "]")
    assert f"[{written['id']}]" in text
    calls = (
        ToolUse(tokenizer(MISTRAL_3)).reader(BOTH).push('[{"name": "time", "arguments": {}}]')[1]
    )
    assert len(calls[0].id) == 9


def test_a_model_that_knows_no_tools_is_told_in_words() -> None:
    messages = [
        {"role": "user", "content": "Time?"},
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {"id": "a", "function": {"name": "time", "arguments": {}}},
                {"id": "b", "function": {"name": "weather", "arguments": {"city": "Bern"}}},
            ],
        },
        {"role": "tool", "content": "noon", "tool_call_id": "a"},
        {"role": "tool", "content": "sun", "tool_call_id": "b"},
        {"role": "user", "content": "Thanks. And now?"},
    ]
    system, *others = told_in_text(messages, BOTH)
    assert system["role"] == "system"
    assert json.dumps(TIME.for_template()) in system["content"]
    calls = HERMES.written([("time", "{}"), ("weather", '{"city": "Bern"}')])
    assert others == [
        messages[0],
        {"role": "assistant", "content": f"One moment.\n{calls}"},
        {
            "role": "user",
            "content": "<tool_response>\nnoon\n</tool_response>\n<tool_response>\nsun\n</tool_response>\nThanks. And now?",
        },
    ]
    assert "<|im_start|>system\n# Tools" in prompt(CHATML, messages)


def test_earlier_calls_are_told_in_words_where_no_tool_is_offered_any_more() -> None:
    call = {"id": "a", "function": {"name": "time", "arguments": {}}}
    messages = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "a"},
    ]
    text = prompt(CHATML, messages, Tools((WEATHER, TIME), NONE))
    assert "# Tools" not in text
    assert HERMES.written([("time", "{}")]) in text
    assert "<tool_response>\nnoon\n</tool_response>" in text
    assert "<tools>" not in prompt(QWEN, messages, Tools((WEATHER, TIME), NONE))


@given(
    text=st.sampled_from(
        [
            '{"a": [{"name": "weather", "arguments": {"city": "Rome"}}]}',
            ' {"a": "<tool_call>\\n{"}',
            "17",
            "",
        ]
    ),
    data=st.data(),
)
def test_json_in_place_of_calls_is_text_to_the_last_letter(text: str, data: st.DataObject) -> None:
    for form in (HERMES, MISTRAL):
        reader = CallsOrOtherReader(ToolReader(form, ["weather", "time"]), form)
        told = [reader.push(piece) for piece in cut(text, data)] + [reader.finish()]
        assert "".join(said for said, _ in told) == text
        assert not any(calls for _, calls in told)


def test_the_instruction_follows_what_the_system_message_says() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    system, user = told_in_text(messages, BOTH)
    assert system["content"].startswith("Be brief.\n\n# Tools")
    assert user == messages[1]


def test_without_a_tool_that_may_be_called_nothing_is_constrained() -> None:
    assert constraint_of(Tools((WEATHER,), NONE), HERMES) is None


def test_a_strict_tool_whose_arguments_would_not_be_held_to_its_schema_is_refused() -> None:
    unheld = {**CITY, "not": {"required": ["town"]}}
    with pytest.raises(RequestRefused, match=r"tool 'weather' can't be strict: .*'not'"):
        constraint_of(Tools((Tool("weather", unheld, strict=True),)), HERMES)
    loose = constraint_of(Tools((Tool("weather", unheld),)), HERMES)
    assert loose is not None
    assert '"json_schema": {"type": "object"}' in loose.text


def test_parameters_that_are_no_object_are_refused() -> None:
    with pytest.raises(RequestRefused, match="of the tool 'weather' are of type 'string'"):
        constraint_of(Tools((Tool("weather", {"type": "string"}),), REQUIRED), HERMES)
