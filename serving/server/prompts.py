"""Requests → prompts in token ids, checked against what the model can take."""

from collections.abc import Sequence

from serving.server.errors import BadRequest, unsupported
from serving.server.messages import tells_of_calls
from serving.server.runtime import Served, ToolUse
from serving.server.schemas import ChatRequest, CompletionRequest
from serving.server.tools import Tools


def encode(asked: ChatRequest | CompletionRequest, served: Served) -> list[Sequence[int]]:
    """Token ids of each prompt. Raises BadRequest."""
    if isinstance(asked, ChatRequest):
        prompts, param = [encode_chat(asked, served)], "messages"
    else:
        prompts, param = [_encode_prompt(prompt, served) for prompt in asked.prompts], "prompt"
    for token_ids in prompts:
        _check_length(len(token_ids), served.context_tokens, param)
    _check_sampled_tokens(asked, served)
    return prompts


def encode_chat(asked: ChatRequest, served: Served) -> Sequence[int]:
    try:
        if asked.tools.offered or (served.tool_use and any(map(tells_of_calls, asked.messages))):
            return tool_use_of(served, asked.tools).encode_chat(asked.messages, asked.tools)
        return served.tokenizer.encode_chat(asked.messages)
    except ValueError as error:
        raise BadRequest(str(error), code="invalid_messages", param="messages") from error


def tool_use_of(served: Served, tools: Tools) -> ToolUse:
    """Raises BadRequest where the model calls no tools."""
    if served.tool_use is None:
        names = [each.name for each in tools.offered]
        raise unsupported("tools", names, "this model calls no tools; leave them out")
    return served.tool_use


def _encode_prompt(prompt: str | tuple[int, ...], served: Served) -> Sequence[int]:
    if isinstance(prompt, str):
        return served.tokenizer.encode(prompt)
    check_token_ids(prompt, served.vocabulary_tokens, "prompt")
    return prompt


def _check_sampled_tokens(asked: ChatRequest | CompletionRequest, served: Served) -> None:
    sampling, above = asked.options.sampling, served.vocabulary_tokens
    check_token_ids([token_id for token_id, _ in sampling.logit_bias], above, "logit_bias")
    check_token_ids(sampling.stop_token_ids, above, "stop_token_ids")


def check_token_ids(token_ids: Sequence[int], above: int, param: str) -> None:
    """Raises BadRequest for the first that is not below above."""
    for token_id in token_ids:
        if not 0 <= token_id < above:
            raise BadRequest(
                f"{param} holds the token id {token_id}: expected 0 to {above - 1}",
                code="invalid_value",
                param=param,
            )


def _check_length(prompt_tokens: int, context_tokens: int, param: str) -> None:
    if not prompt_tokens:
        raise BadRequest("the prompt is empty", code="invalid_value", param=param)
    if prompt_tokens >= context_tokens:
        raise BadRequest(
            f"this model's maximum context length is {context_tokens} tokens and the prompt has {prompt_tokens}, "
            "which leaves no room for an answer; shorten the prompt",
            code="context_length_exceeded",
            param=param,
        )


__all__ = ["check_token_ids", "encode", "encode_chat", "tool_use_of"]
