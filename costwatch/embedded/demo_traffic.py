"""The demo's applications: four kinds of real traffic to the runtime, tagged with the team that pays.

    python -m costwatch.embedded.demo_traffic http://127.0.0.1:8100/v1

    Customer Chat      a chat assistant: several turns, streamed, sampled
    Legal Summaries    summaries of documents: long prompts
    Ticket Triage      a classification job: few words back, the same tickets come again
    Research Agent     an agent: a long prefix that every step repeats

Texts are put together from small vocabularies. The rate gives way: after each call it rests for longer than the call
took, so that the machine stays usable whatever its speed.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import openai
from openai.types.chat import ChatCompletionMessageParam

import collectors

logger = logging.getLogger(__name__)

# Of the time, at most this part is spent waiting for answers; the rest the machine is free.
_BUSY_SHARE = 0.4
_FIRST_REST_SECONDS = 1.0
_LONGEST_REST_SECONDS = 30.0

_THINGS = (
    "parcel",
    "invoice",
    "refund",
    "password",
    "subscription",
    "delivery",
    "voucher",
    "address",
)
_TROUBLES = (
    "is late",
    "is wrong",
    "does not arrive",
    "was charged twice",
    "has expired",
    "is missing",
)
_PARTIES = ("the supplier", "the buyer", "the carrier", "the tenant", "the licensee", "the insurer")
_DUTIES = (
    "shall deliver the goods within thirty days of the order",
    "may terminate the agreement with a notice of three months",
    "bears the cost of transport and insurance",
    "keeps all information of the other party confidential",
    "pays each invoice within fourteen days of receipt",
    "is liable for damage caused by gross negligence only",
)
_TOPICS = (
    "wind power",
    "rail freight",
    "heat pumps",
    "cold chains",
    "battery recycling",
    "tidal energy",
)
_TOOLS = "\n".join(
    f"{number}. {name}: {what}. Call it with one line of plain text and wait for its answer."
    for number, (name, what) in enumerate(
        {
            "search": "finds pages in the company's library",
            "open": "reads a page that search found",
            "note": "keeps a sentence for the report",
            "compare": "puts two notes side by side",
            "ask": "asks a colleague who knows the field",
            "finish": "writes the report from all notes",
        }.items(),
        start=1,
    )
)
_AGENT_PROMPT = (
    "You are a research agent. Work step by step, say in one short sentence what you do next, and never "
    f"repeat a step. These are your tools:\n{_TOOLS}\nA report has a title, a summary of three sentences, "
    "the evidence with its sources, and what remains open. Be brief and exact."
)


def chat_assistant(client: openai.OpenAI, model: str, chance: random.Random) -> Iterator[None]:
    """One customer's conversation of a few turns."""
    turns: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "You help customers of a shop, briefly."}
    ]
    for _ in range(chance.randint(2, 3)):
        question = f"My {chance.choice(_THINGS)} {chance.choice(_TROUBLES)}. What can I do?"
        turns.append({"role": "user", "content": question})
        stream = client.chat.completions.create(
            model=model,
            messages=turns,
            max_tokens=48,
            temperature=0.7,
            stream=True,
            stream_options={"include_usage": True},
        )
        answer = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        turns.append({"role": "assistant", "content": answer})
        yield


def summaries(client: openai.OpenAI, model: str, chance: random.Random) -> Iterator[None]:
    """One contract, summarised."""
    clauses = [
        f"{number}. {chance.choice(_PARTIES).capitalize()} {chance.choice(_DUTIES)}."
        for number in range(1, chance.randint(18, 26))
    ]
    _ask(client, model, f"Summarise this contract in two sentences.\n{' '.join(clauses)}", 40)
    yield


def classification(client: openai.OpenAI, model: str, chance: random.Random) -> Iterator[None]:
    """A few tickets of a small pool: most of them were asked about before."""
    for _ in range(4):
        ticket = f"My {chance.choice(_THINGS[:4])} {chance.choice(_TROUBLES[:3])}."
        _ask(client, model, f"Answer with one word, billing or shipping or account. {ticket}", 3)
        yield


def agent(client: openai.OpenAI, model: str, chance: random.Random) -> Iterator[None]:
    """One task of a few steps, each of which sends the whole prefix again."""
    steps: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": _AGENT_PROMPT},
        {"role": "user", "content": f"Research {chance.choice(_TOPICS)} in Europe."},
    ]
    for _ in range(3):
        answer = client.chat.completions.create(
            model=model,
            messages=steps,
            max_tokens=24,
            temperature=0.3,
        )
        said = answer.choices[0].message.content or ""
        steps += [{"role": "assistant", "content": said}, {"role": "user", "content": "Next step."}]
        yield


def _ask(client: openai.OpenAI, model: str, prompt: str, max_tokens: int) -> None:
    client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        temperature=0,
    )


Application = Callable[[openai.OpenAI, str, random.Random], Iterator[None]]
# Team, feature, application.
APPLICATIONS: tuple[tuple[str, str, Application], ...] = (
    ("ticket-triage", "ticket-classification", classification),
    ("customer-chat", "chat-assistant", chat_assistant),
    ("research-agent", "research", agent),
    ("legal-summaries", "contract-summaries", summaries),
)


def run(base_url: str) -> None:
    """Send without end. One call at a time: the point is distinct traffic, not load."""
    client = openai.OpenAI(base_url=base_url, api_key="demo", max_retries=0, timeout=120)
    chance = random.Random()  # noqa: S311  traffic, not secrets
    rest_seconds = _FIRST_REST_SECONDS
    while True:
        try:
            model = client.models.list().data[0].id
            for team, feature, application in chance.sample(APPLICATIONS, len(APPLICATIONS)):
                with collectors.attribute(
                    team=team, feature=feature, user=f"user-{chance.randrange(20)}"
                ):
                    _one_after_the_other(application(client, model, chance))
            rest_seconds = _FIRST_REST_SECONDS
        except openai.APIError as error:
            logger.warning("the runtime does not answer (%s); again in %.0f s", error, rest_seconds)
            time.sleep(rest_seconds)
            rest_seconds = min(rest_seconds * 2, _LONGEST_REST_SECONDS)


def _one_after_the_other(calls: Iterator[Any]) -> None:
    begun = time.monotonic()
    for _ in calls:
        took_seconds = time.monotonic() - begun
        time.sleep(took_seconds * (1 - _BUSY_SHARE) / _BUSY_SHARE)
        begun = time.monotonic()


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m costwatch.embedded.demo_traffic BASE_URL")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # At once, in the middle of a call too: waiting for its answer would hold everything up, and the runtime
    # accounts for what it did of it.
    signal.signal(signal.SIGTERM, _stop)
    configured = collectors.configure(service_name="demo-applications", environment="demo")
    try:
        run(sys.argv[1])
    finally:
        configured.shutdown()


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit()


if __name__ == "__main__":
    main()
