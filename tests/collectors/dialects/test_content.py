"""What people asked and models answered is never kept, wherever a library puts it."""

import json
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from collectors.dialects.scopes import SCOPES
from tests.collectors.bodies import decoded, key_values, span

SECRET = "the merger closes on friday"
MESSAGES = json.dumps([{"role": "user", "content": SECRET}])
ANSWER = json.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": SECRET}}]})
PYTHON = repr({"role": "user", "content": SECRET, "prompt_tokens": 7})

CONTENT: dict[str, dict[str, Any]] = {
    "otel_genai": {
        "gen_ai.input.messages": MESSAGES,
        "gen_ai.output.messages": MESSAGES,
        "gen_ai.system_instructions": MESSAGES,
        "gen_ai.prompt": SECRET,
        "gen_ai.completion": SECRET,
        "gen_ai.tool.call.arguments": SECRET,
        "gen_ai.tool.call.result": SECRET,
        "gen_ai.tool.definitions": MESSAGES,
        "gen_ai.retrieval.query.text": SECRET,
        "gen_ai.retrieval.documents": MESSAGES,
        "gen_ai.request.messages": MESSAGES,
        "gen_ai.event.content": MESSAGES,
        "gen_ai.prompt.variable.name": SECRET,
        "gen_ai.evaluation.explanation": SECRET,
    },
    "google and azure": {
        "gcp.vertex.agent.llm_request": MESSAGES,
        "gcp.vertex.agent.llm_response": ANSWER,
        "gcp.vertex.agent.tool_call_args": MESSAGES,
        "gcp.vertex.agent.tool_response": MESSAGES,
        "gcp.vertex.agent.data": MESSAGES,
        "code.function.parameters.contents.value": SECRET,
    },
    "openllmetry": {
        "gen_ai.prompt.0.content": SECRET,
        "gen_ai.completion.0.content": SECRET,
        "gen_ai.completion.0.tool_calls.0.arguments": SECRET,
        "llm.prompts.0.content": SECRET,
        "llm.completions.0.content": SECRET,
        "llm.request.functions.0.description": SECRET,
        "traceloop.entity.input": MESSAGES,
        "traceloop.entity.output": MESSAGES,
    },
    "openinference": {
        "openinference.span.kind": "LLM",
        "input.value": MESSAGES,
        "output.value": ANSWER,
        "llm.input_messages.0.message.content": SECRET,
        "llm.output_messages.0.message.content": SECRET,
        "llm.prompts": MESSAGES,
        "llm.prompt_template.template": SECRET,
        "llm.prompt_template.variables": MESSAGES,
        "llm.invocation_parameters": json.dumps({"model": "gpt-4o", "stop": SECRET}),
        "llm.function_call": MESSAGES,
        "llm.tools.0.tool.json_schema": MESSAGES,
        "embedding.text": SECRET,
        "embedding.embeddings.0.embedding.text": SECRET,
        "retrieval.documents.0.document.content": SECRET,
        "reranker.query": SECRET,
        "metadata": json.dumps({"question": SECRET}),
    },
    "an answer in plain text": {
        "openinference.span.kind": "LLM",
        "output.value": json.dumps({"id": SECRET}),
        "output.mime_type": "text/plain",
    },
    "openlit": {
        "gen_ai.content.prompt": SECRET,
        "gen_ai.content.completion": SECRET,
        "gen_ai.content.reasoning": SECRET,
        "gen_ai.tool.args": SECRET,
        "gen_ai.output.reasoning": SECRET,
    },
    "litellm": {
        "llm.openai.messages": PYTHON,
        "llm.openai.choices": PYTHON,
        "llm.openai.input": SECRET,
        "llm.None.output": PYTHON,
        "llm.openai.usage": PYTHON,
        "llm.openai.tools": PYTHON,
        "metadata.usage_object": PYTHON,
        "metadata.requester_metadata": PYTHON,
        "metadata.spend_logs_metadata": PYTHON,
        "metadata.requester_custom_headers": PYTHON,
        "metadata.prompt_management_metadata": PYTHON,
        "metadata.mcp_tool_call_metadata": PYTHON,
        "hidden_params": json.dumps({"headers": SECRET, "api_base": "https://api.openai.com"}),
        "error.message": SECRET,
        "error.stack_trace": SECRET,
    },
    "langfuse": {
        "langfuse.observation.type": "generation",
        "langfuse.observation.input": MESSAGES,
        "langfuse.observation.output": SECRET,
        "langfuse.observation.metadata": json.dumps({"note": SECRET}),
        "langfuse.observation.status_message": SECRET,
        "langfuse.observation.model.parameters": json.dumps({"stop": SECRET}),
        "langfuse.observation.usage_details": json.dumps({"input": 7, "note": SECRET}),
        "langfuse.trace.input": MESSAGES,
        "langfuse.trace.output": SECRET,
        "langfuse.trace.metadata": json.dumps({"note": SECRET}),
    },
    "logfire and pydantic-ai": {
        "request_data": json.dumps({"model": "gpt-4o", "messages": [{"content": SECRET}]}),
        "response_data": json.dumps({"message": {"content": SECRET}, "usage": {"note": SECRET}}),
        "gen_ai.usage.raw": json.dumps({"prompt_tokens": 7, "note": SECRET}),
        "events": MESSAGES,
        "all_messages_events": MESSAGES,
        "pydantic_ai.all_messages": MESSAGES,
        "final_result": SECRET,
        "tool_arguments": SECRET,
        "tool_response": SECRET,
        "model_request_parameters": json.dumps({"instructions": SECRET}),
        "logfire.msg": SECRET,
        "logfire.json_schema": SECRET,
    },
    "vercel": {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.prompt": json.dumps({"prompt": SECRET}),
        "ai.prompt.messages": MESSAGES,
        "ai.prompt.tools": [SECRET],
        "ai.prompt.format": SECRET,
        "ai.response.text": SECRET,
        "ai.response.object": SECRET,
        "ai.response.reasoning": SECRET,
        "ai.response.toolCalls": MESSAGES,
        "ai.response.files": MESSAGES,
        "ai.result.text": SECRET,
        "ai.toolCall.args": SECRET,
        "ai.toolCall.result": SECRET,
        "ai.value": SECRET,
        "ai.values": [SECRET],
        "ai.embedding": SECRET,
        "ai.schema": SECRET,
        "ai.response.providerMetadata": json.dumps({"anthropic": {"note": SECRET}}),
    },
}
CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.usage.input_tokens": 7,
    "gen_ai.usage.output_tokens": 3,
}
FAILED = {
    "status": Status(code=Status.STATUS_CODE_ERROR, message=SECRET),
    "events": [
        Span.Event(
            name="exception",
            attributes=key_values(
                {"exception.type": "ValueError", "exception.message": SECRET, "gen_ai.prompt": SECRET}
            ),
        )
    ],
    "name": SECRET,
}  # fmt: skip
SCOPE_NAMES = sorted({scope.name for scope in SCOPES} | {"somebody else's"})


@pytest.mark.parametrize("kind", CONTENT)
def test_no_content_is_kept_whoever_sends_it(kind: str) -> None:
    for scope in SCOPE_NAMES:
        body = decoded(span({**CALL, **CONTENT[kind]}, **FAILED), scope=scope)
        assert len(body.observations) == 1
        assert SECRET not in repr(body), scope


@pytest.mark.parametrize("kind", CONTENT)
def test_no_content_is_kept_of_what_is_around_a_call(kind: str) -> None:
    around = {**CONTENT[kind], "gen_ai.operation.name": "invoke_agent", "team": "search"}
    for scope in SCOPE_NAMES:
        assert SECRET not in repr(decoded(span(around, **FAILED), scope=scope)), scope


def test_all_of_it_at_once_is_not_kept_either() -> None:
    everything = {name: text for content in CONTENT.values() for name, text in content.items()}
    for scope in SCOPE_NAMES:
        assert SECRET not in repr(decoded(span({**CALL, **everything}, **FAILED), scope=scope))
