"""Logging in, a few wrong tries at a time."""

from hashlib import sha256
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.core.cache import cache
from django.core.exceptions import ValidationError

MAX_WRONG_TRIES = 10
PAUSE_SECONDS = 15 * 60


class LimitedAuthenticationForm(AuthenticationForm):
    """Refuses an address after too many wrong tries, for a while: whoever makes them, also the right password.

    Counted in the memory of each web process.
    """

    def clean(self) -> dict[str, Any]:
        address = str(self.cleaned_data.get("username", "")).strip().lower()
        tries = f"login:{sha256(address.encode()).hexdigest()}"
        if cache.get(tries, 0) >= MAX_WRONG_TRIES:
            raise ValidationError(
                "Too many wrong tries for this address; wait a quarter of an hour and try again."
            )
        try:
            cleaned = super().clean()
        except ValidationError:
            cache.add(tries, 0, PAUSE_SECONDS)
            cache.incr(tries)
            raise
        cache.delete(tries)
        return cleaned
