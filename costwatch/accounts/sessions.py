"""Where sessions are kept: under a hash of what the browser holds, so that a copy of the database lets nobody in.

Django's own keeps the cookie's value itself. Only what WSGI needs is here: nothing of ours is asynchronous.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.utils import timezone

_BYTES = 20  # in hex as long as the column


def hash_of(session_key: str) -> str:
    # The key is random and long: guessing it is as hopeless as guessing the hash.
    return blake2b(session_key.encode(), digest_size=_BYTES).hexdigest()


class SessionStore(db.SessionStore):
    """Django's, but for the names of its rows."""

    def load(self) -> dict[str, Any]:
        found = None
        if self.session_key is not None:
            rows = self.model.objects.filter(expire_date__gt=timezone.now())
            found = rows.filter(session_key=hash_of(self.session_key)).first()
        if found is None:
            self._session_key = None
            return {}
        said: dict[str, Any] = self.decode(found.session_data)
        return said

    def exists(self, session_key: str) -> bool:
        return super().exists(hash_of(session_key))

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(hash_of(key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = hash_of(row.session_key)
        return row
