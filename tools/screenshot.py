"""Makes the README's screenshot: a fresh database, the generated month, a real browser.

python tools/screenshot.py docs/overview.png
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from costwatch.embedded.postgres import running  # noqa: E402  the checkout is on the path from here on
from tests.browser import chromium  # noqa: E402

EMAIL, PASSWORD = "finance@example.org", "for one screenshot"


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "overview.png")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="costwatch-shot-")))
        folder.chmod(0o755)
        url = stack.enter_context(running(folder / "postgres", durable=False))
        os.environ.update(
            DATABASE_URL=url, COSTWATCH_SECRET_KEY="screenshot", COSTWATCH_PASSWORD=PASSWORD
        )
        os.environ.update(CELERY_BROKER_URL="memory://", COSTWATCH_LOG_LEVEL="WARNING")
        for arguments in (
            ("migrate", "--verbosity", "0"),
            ("import_catalogue",),
            ("seed_demo", "--member", EMAIL),
            (
                "create_member",
                "--organization",
                "Generated example (made-up data)",
                "--email",
                EMAIL,
            ),
        ):
            subprocess.run([sys.executable, "-m", "costwatch", *arguments], check=True)  # noqa: S603
        _shoot(stack.enter_context(_web()), target)
    print(target)  # noqa: T201


@contextmanager
def _web() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = (
        "gunicorn",
        "--bind",
        address,
        "--threads",
        "4",
        "--no-control-socket",
        "costwatch.wsgi",
    )
    server = subprocess.Popen([sys.executable, "-m", *command])  # noqa: S603
    time.sleep(5)
    yield f"http://{address}"
    server.terminate()
    server.wait(timeout=20)


def _shoot(url: str, target: Path) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(url)
        page.fill("input[name=username]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.get_by_role("button").first.click()
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1500)
        page.screenshot(path=target, full_page=True)


if __name__ == "__main__":
    main()
