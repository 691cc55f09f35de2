"""One call of the model that is named; then the end, or a long wait."""

import os
import sys
import time

import httpx

httpx.post(
    os.environ["PROVIDER_URL"] + "/v1/chat/completions", json={"model": sys.argv[1], "messages": []}
)
if sys.argv[2:] == ["stay"]:
    time.sleep(60)
