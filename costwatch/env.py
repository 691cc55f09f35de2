"""Settings from the environment: NAME, or NAME_FILE for a secret that is mounted as a file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str = "") -> str:
    """The value of NAME, or the stripped contents of the file that NAME_FILE names, or the default."""
    file_name = os.environ.get(f"{name}_FILE")
    if file_name is None:
        return os.environ.get(name, default)
    if name in os.environ:
        raise ImproperlyConfigured(f"{name} and {name}_FILE are both set; set one of them")
    try:
        return Path(file_name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ImproperlyConfigured(
            f"{name}_FILE={file_name!r}: cannot be read ({error})"
        ) from error


def flag(name: str, default: bool = False) -> bool:
    value = text(name, "yes" if default else "no").lower()
    if value in {"1", "yes", "true", "on"}:
        return True
    if value in {"0", "no", "false", "off", ""}:
        return False
    raise ImproperlyConfigured(f"{name}={value!r}: expected yes or no")


def whole_number(name: str, default: int, most: int | None = None) -> int:
    """most   if given, the number is from 0 to it."""
    value = text(name, str(default))
    try:
        number = int(value)
    except ValueError:
        raise ImproperlyConfigured(
            f"{name}={value!r}: expected a whole number, such as {default}"
        ) from None
    if most is not None and not 0 <= number <= most:
        raise ImproperlyConfigured(
            f"{name}={value!r}: expected a whole number from 0 to {most}, such as {default}"
        )
    return number


def words(name: str, default: str = "") -> list[str]:
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def postgres(name: str, default: str) -> dict[str, Any]:
    """Django's DATABASES entry for a URL such as postgresql://user:password@host:5432/name?sslmode=require."""
    url = text(name, default)
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql", "pgmq"} or not parts.path.strip("/"):
        raise ImproperlyConfigured(
            f"{name}: expected postgresql://user:password@host:5432/database, found scheme {parts.scheme!r}"
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "OPTIONS": dict(parse_qsl(parts.query)),
    }


# What libpq takes from a URL's query, and from which variables where nobody can give it one.
_LIBPQ_VARIABLES = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "options": "PGOPTIONS",
}


def broker_in(database: Mapping[str, Any]) -> str:
    """The URL of Celery's queues in a database of Django's settings.

    Kombu's pgmq writes user and password into libpq's text as they come, so they come quoted; it knows nothing of
    the URL's other parameters, which reach libpq through its own variables.
    """
    for option, value in database["OPTIONS"].items():
        if option in _LIBPQ_VARIABLES:
            os.environ.setdefault(_LIBPQ_VARIABLES[option], str(value))
    user, password = (quote(_libpq(database[part]), safe="") for part in ("USER", "PASSWORD"))
    host = database["HOST"] or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"pgmq://{user}:{password}@{host}:{database['PORT'] or 5432}/{quote(database['NAME'])}"


def _libpq(value: str) -> str:
    if not value or re.fullmatch(r"[\w.@:/+!*-]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def email(name: str) -> dict[str, object]:
    """Django's EMAIL_* settings for smtp://user:password@host:587/?tls=yes (or smtps://); the console without one."""
    url = text(name)
    if not url:
        return {"EMAIL_BACKEND": "django.core.mail.backends.console.EmailBackend"}
    parts = urlsplit(url)
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
        raise ImproperlyConfigured(
            f"{name}: expected smtp://user:password@host:587/?tls=yes or smtps://…, found scheme {parts.scheme!r}"
        )
    return {
        "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or (465 if parts.scheme == "smtps" else 25),
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_SSL": parts.scheme == "smtps",
        "EMAIL_USE_TLS": dict(parse_qsl(parts.query)).get("tls") == "yes",
        "EMAIL_TIMEOUT": 10,
    }
