"""Reports of providers: asked for page by page, with patience for rate limits and none for what can't be helped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from collectors.sender import retry_after

_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_MOST_SECONDS = 180.0  # for one answer, however slowly it comes
_MOST_BYTES = 32 * 1024 * 1024
_MOST_PAGES = 1_000
_FIRST_PAUSE_SECONDS = 1.0
_LEAST_PAUSE_SECONDS = (
    0.5  # that "at once" costs of patience, or a provider could be asked for ever
)
_COME_BACK = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_SAID = 300  # characters of what a provider said

Asked = Sequence[tuple[str, str]]


class CannotFetch(Exception):
    """A report could not be had.

    permanent             trying again would not help: a key that is refused, an answer that nobody documented.
    retry_after_seconds   when the provider wants to see us again; None: it did not say.
    """

    def __init__(
        self, message: str, *, permanent: bool, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Api:
    """A provider's API of reports, and the key to it.

    patience_seconds   how long may be waited in all for a provider that asks to come again.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    key: str
    key_hint: str  # what kind of key it takes
    patience_seconds: float = 90.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise CannotFetch(
                f"{self.name}'s key holds characters that no key has; it takes {self.key_hint}",
                permanent=True,
            )

    def buckets(self, path: str, asked: Asked) -> Iterator[dict[str, Any]]:
        """The buckets of all pages. Numbers with a fraction are Decimal. Raises CannotFetch."""
        cursor, seen = "", set[str]()
        for _ in range(_MOST_PAGES):
            page = self._page(path, [*asked, *([("page", cursor)] if cursor else [])])
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
                raise self.unreadable(path, f"expected a list of buckets under data, found {data!r:.80}")  # fmt: skip
            yield from data
            if not page.get("has_more"):
                return
            following = page.get("next_page")
            if not isinstance(following, str) or not following or following in seen:
                raise self.unreadable(path, f"there is more, but next_page is {following!r:.80}")
            seen.add(following)
            cursor = following
        raise self.unreadable(path, f"more than {_MOST_PAGES} pages")

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """What goes wrong in reading an answer, as CannotFetch."""
        try:
            yield
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise self.unreadable(path, f"{type(error).__name__}: {error}"[:_SAID]) from None

    def unreadable(self, path: str, why: str) -> CannotFetch:
        return CannotFetch(f"{self.name} answered {path} as nobody documented: {why}", permanent=True)  # fmt: skip

    def _page(self, path: str, asked: Asked) -> dict[str, Any]:
        """One page, after as many attempts as patience allows."""
        left, pause = self.patience_seconds, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._ask(path, asked)
            except CannotFetch as error:
                said = error.retry_after_seconds
                wait = pause if said is None else said
                left -= max(wait, _LEAST_PAUSE_SECONDS)
                if error.permanent or left < 0:
                    raise
                self.sleep(wait)
                pause *= 2

    def _ask(self, path: str, asked: Asked) -> dict[str, Any]:
        import requests  # loaded when there is something to fetch

        try:
            with requests.get(
                f"{self.url}{path}?{urlencode(asked)}",
                headers={"accept": "application/json", **self.headers},
                timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                allow_redirects=False,  # they would take the key elsewhere
                stream=True,
            ) as answer:
                body = self._body(path, answer.iter_content(65_536))
                return self._read(path, answer.status_code, answer.headers, body)
        except requests.RequestException as error:
            raise CannotFetch(
                f"{self.name} was not reached: {self._hidden(error)}", permanent=False
            ) from None

    def _body(self, path: str, chunks: Iterator[bytes]) -> bytes:
        body, ends_at = bytearray(), time.monotonic() + _MOST_SECONDS
        for chunk in chunks:
            body += chunk
            if len(body) > _MOST_BYTES:
                raise self.unreadable(path, f"a page of more than {_MOST_BYTES:,} bytes")
            if time.monotonic() > ends_at:
                raise CannotFetch(
                    f"{self.name} took more than {_MOST_SECONDS:.0f} s for a page of {path}",
                    permanent=False,
                )
        return bytes(body)

    def _read(
        self, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        if status != 200:
            raise self._refusal(path, status, headers, body)
        try:
            page = json.loads(body, parse_float=Decimal)
        except ValueError:
            raise self.unreadable(path, f"expected JSON, found {body[:80]!r}") from None
        if not isinstance(page, dict):
            raise self.unreadable(path, f"expected an object, found {body[:80]!r}")
        return page

    def _refusal(
        self, path: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> CannotFetch:
        said = self._hidden(_message_in(body))
        if status in _COME_BACK:
            return CannotFetch(
                f"{self.name} answered {path} with {status}: {said}",
                permanent=False,
                retry_after_seconds=retry_after(headers.get("retry-after")),
            )
        if status in {401, 403}:
            return CannotFetch(
                f"{self.name} refused the key ({status}: {said}); it takes {self.key_hint}",
                permanent=True,
            )
        return CannotFetch(f"{self.name} refused {path} ({status}: {said})", permanent=True)

    def _hidden(self, said: object) -> str:
        """Without the key, which no log and no page may show."""
        return " ".join(str(said).replace(self.key, "…").split())[:_SAID]


def _message_in(body: bytes) -> str:
    """What went wrong in the provider's words: {"error": {"message": …}} with both; else as it came."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:_SAID].decode(errors="replace")
