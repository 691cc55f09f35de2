"""The bodies of metrics in the corpus."""

import json
from pathlib import Path

from collectors.metrics import decode_metrics
from collectors.observation import TokenPoint
from collectors.otlp import PROTOBUF, decompress
from tests.collectors.test_corpus import CASES, expected

WITH_METRICS = [case for case in CASES if expected(case)["metrics_tokens"]]


def metrics_of(case: Path) -> list[TokenPoint]:
    """All points of a case, body by body."""
    return [point for path in sorted(case.glob("*.headers.json")) for point in _points(path)]


def _points(path: Path) -> list[TokenPoint]:
    headers = json.loads(path.read_text())
    if headers["_signal"] != "metrics":
        return []
    body = path.with_name(path.name.replace(".headers.json", ".pb")).read_bytes()
    whole = decompress(body, headers.get("content-encoding", ""), 10**7)
    return decode_metrics(whole, content_type=headers.get("content-type", PROTOBUF)).token_points
