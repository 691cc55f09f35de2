"""Text to token ids and back, and messages to a prompt, as the model's own files say."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import tokenizers
from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serving.weights.checkpoint import Checkpoint


class ChatTemplateError(ValueError):
    """The messages do not fit the model's chat template, or it has none; the message says which."""


def read_backend(tokenizer_json: str) -> tokenizers.Tokenizer:
    """The tokenizer that takes texts as they are: how long they were cut and padded was a matter of training."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode(
    backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool = True
) -> list[int]:
    """Token ids. Other threads go on meanwhile: for one text alone the library keeps Python's lock, for several it does
    not, and a long one takes seconds."""
    (encoding,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


class Tokenizer:
    """A model's tokenizer. eos_token_ids end an answer; vocab_size counts every id it can give out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._backend = read_backend(checkpoint.tokenizer_json)
        self._special = _special_tokens(checkpoint.tokenizer_config)
        self._sources = _template_sources(checkpoint.tokenizer_config)
        self._templates = {name: _compile(source) for name, source in self._sources.items()}
        self.eos_token_ids = self._eos_token_ids(checkpoint.config)
        self.vocab_size: int = self._backend.get_vocab_size()

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The tokenizer itself, for who reads its vocabulary."""
        return self._backend

    @property
    def tool_template(self) -> str | None:
        """The text of the chat template that a conversation with tools is written by; None: there is none."""
        return self._sources.get("tool_use", self._sources.get("default"))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids. add_special_tokens puts those around it that the model wants around a bare text."""
        return encode(self._backend, text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens. Bytes that are no whole character come back as U+FFFD."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt text of messages ({"role": …, "content": text}). Raises ChatTemplateError.

        tools   what may be called, as OpenAI's API describes it; None where nothing may
        """
        template = self._templates.get("default")
        if tools is not None:
            template = self._templates.get("tool_use", template)
        if template is None:
            raise ChatTemplateError("the model has no chat template; send it a prompt to complete")
        try:
            return template.render(
                messages=messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        except (TemplateError, TypeError) as error:
            raise ChatTemplateError(
                f"the messages do not fit the model's chat template: {error}"
            ) from error

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of the prompt that asks for the next answer. Raises ChatTemplateError."""
        return self.encode(self.chat_prompt(messages, tools=tools), add_special_tokens=False)

    def _eos_token_ids(self, config: Mapping[str, Any]) -> frozenset[int]:
        configured = config.get("eos_token_id")
        ids = set(configured if isinstance(configured, list) else [configured])
        ids.add(self._backend.token_to_id(self._special.get("eos_token", "")))
        return frozenset(token_id for token_id in ids if token_id is not None)


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and the like: a text, or an object that holds one as content."""
    tokens = {name: value for name, value in tokenizer_config.items() if name.endswith("_token")}
    texts = {
        name: value.get("content") if isinstance(value, Mapping) else value
        for name, value in tokens.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _template_sources(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates' texts: "default", and "tool_use" where the model has one of its own for tools."""
    source = tokenizer_config.get("chat_template")
    if isinstance(source, list):
        named = {each["name"]: each["template"] for each in source}
        return {name: named[name] for name in ("default", "tool_use") if name in named}
    return {} if source is None else {"default": source}


def _compile(source: str) -> Template:
    """The template comes with the weights, from anybody: it runs in a sandbox that can reach nothing."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _refuse_messages
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox.from_string(source)


# What templates expect to find: the names and their meanings are transformers'.
def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse_messages(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now(tz=UTC).strftime(pattern)
