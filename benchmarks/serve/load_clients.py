"""Public load clients against our server, offline: what they say of it themselves."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serve.parties import HttpServer, NotMeasured

_SECONDS = 400
_REQUESTS_A_STREAM = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """streams requests are open at any time, until _REQUESTS_A_STREAM of each are answered."""

    streams: int
    prompt_tokens: int
    answer_tokens: int
    tokenizer: Path

    @property
    def requests(self) -> int:
        return self.streams * _REQUESTS_A_STREAM


@dataclass(frozen=True, slots=True)
class Said:
    """By the client. tokens_per_second are of answers."""

    answered: int
    tokens_per_second: float
    first_token_ms: float


Client = Callable[[Path, HttpServer, Profile], Said]


def guidellm(environment: Path, server: HttpServer, profile: Profile) -> Said:
    """Raises NotMeasured with its last words where it fails."""
    tokens = f"prompt_tokens={profile.prompt_tokens},output_tokens={profile.answer_tokens}"
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "guidellm.json"
        url = f"http://127.0.0.1:{server.port}"
        command = [environment / "bin" / "guidellm", "run"]
        command += ["--backend", f"kind=openai_http,target={url},model={server.model}"]
        command += ["--profile", f"kind=concurrent,streams={profile.streams}"]
        command += ["--constraint", f"kind=max_requests,count={profile.requests}"]
        command += ["--tokenizer", f"kind=hf_auto,model={profile.tokenizer}"]
        command += ["--data", f"kind=synthetic_text,{tokens}"]
        command += ["--output", f"kind=json,path={found}", "--disable-console"]
        metrics = _run(command, found, {"HF_HUB_OFFLINE": "1"})["benchmarks"][0]["metrics"]
    return Said(
        answered=metrics["request_totals"]["successful"],
        tokens_per_second=metrics["output_tokens_per_second"]["successful"]["mean"],
        first_token_ms=metrics["time_to_first_token_ms"]["successful"]["mean"],
    )


def aiperf(environment: Path, server: HttpServer, profile: Profile) -> Said:
    """The same. It takes a folder for its tokenizer only where HF_HUB_OFFLINE is not set."""
    with tempfile.TemporaryDirectory() as folder:
        command = [environment / "bin" / "aiperf", "profile", "--model", server.model]
        command += ["--url", f"http://127.0.0.1:{server.port}", "--endpoint-type", "completions"]
        command += ["--streaming", "--concurrency", str(profile.streams)]
        command += ["--request-count", str(profile.requests), "--tokenizer", profile.tokenizer]
        command += ["--synthetic-input-tokens-mean", str(profile.prompt_tokens)]
        command += ["--output-tokens-mean", str(profile.answer_tokens)]
        command += ["--extra-inputs", "ignore_eos:true", "--ui", "none", "--artifact-dir", folder]
        metrics = _run(command, Path(folder) / "profile_export_aiperf.json", {})
    return Said(
        answered=round(metrics["request_count"]["avg"]),
        tokens_per_second=metrics["output_token_throughput"]["avg"],
        first_token_ms=metrics["time_to_first_token"]["avg"],
    )


def _run(command: list[str | Path], found: Path, env: dict[str, str]) -> Any:
    without_hub = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**without_hub, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMeasured(str(error)) from None
    if done.returncode or not found.exists():
        raise NotMeasured(" ".join((done.stdout + done.stderr).split())[-300:])
    return json.loads(found.read_text())


CLIENTS: dict[str, Client] = {"guidellm": guidellm, "aiperf": aiperf}
