"""Two teams' requests to the runtime; prints what the client was told of each, one JSON line a call."""

import json
import os

from openai import OpenAI

import collectors


def main() -> None:
    configured = collectors.configure(service_name="two-teams")
    client = OpenAI(base_url=os.environ["RUNTIME"], api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    for number in range(4):
        with collectors.attribute(team="search", feature="answers"):
            answer = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Name {number + 2} colours."}],
                max_tokens=12,
                temperature=0,
            )
            told("Search", answer.id, answer.usage)
        with collectors.attribute(team="support", feature="replies"):
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"Say hello to customer {number}."}],
                max_tokens=10,
                stream=True,
                stream_options={"include_usage": True},
            )
            *_, last = stream
            told("Support", last.id, last.usage)
    configured.shutdown()


def told(team: str, response_id: str, usage: object) -> None:
    counts = usage.model_dump()  # type: ignore[attr-defined]
    said = {name: counts[name] for name in ("prompt_tokens", "completion_tokens")}
    print(json.dumps({"team": team, "id": response_id, **said}))  # noqa: T201


if __name__ == "__main__":
    main()
