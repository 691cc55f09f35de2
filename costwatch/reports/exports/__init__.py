"""A chargeback as files. Each has CONTENT_TYPE, EXTENSION and chunks(), which gives the same bytes for the same lines."""


class MissingExtra(RuntimeError):
    """Which package is missing, and how to install it."""
