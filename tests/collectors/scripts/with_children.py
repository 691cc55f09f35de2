"""Calls from this process, from `python -m` in another, from a forked worker and from one that is forked bare."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import httpx

URL = os.environ["PROVIDER_URL"] + "/v1/chat/completions"


def call(model: str) -> None:
    httpx.post(URL, json={"model": model, "messages": []})


if __name__ == "__main__":
    call("here")
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-m", "one_call", "module"], cwd=here, check=True)
    worker = multiprocessing.get_context("fork").Process(target=call, args=("worker",))
    worker.start()
    worker.join()
    pid = os.fork()
    if not pid:
        call("forked")
        sys.exit()
    os.waitpid(pid, 0)
