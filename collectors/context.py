"""Who pays, from here on: tags that every span started inside a block carries.

The tags live in OpenTelemetry's context, which asyncio's tasks inherit, and threads do where collectors.configure()
was called. They are no baggage: baggage travels to whomever is called next, also to a provider, and a customer's name
is none of its business.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import (
    Context,
    attach,
    create_key,
    detach,
    get_current,
    get_value,
    set_value,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from collectors import semconv

_TAGS = create_key("costwatch-tags")


@contextmanager
def attribute(
    *,
    team: str | None = None,
    feature: str | None = None,
    customer: str | None = None,
    user: str | None = None,
    session: str | None = None,
) -> Iterator[None]:
    """Everything inside the block is paid for by these. A block inside overrides what it names and keeps the rest.

    Also a decorator of functions; of coroutine functions it is not, because the call returns before they run.
    """
    tags = tag_attributes(team=team, feature=feature, customer=customer, user=user, session=session)
    token = attach(set_value(_TAGS, {**current_tags(), **tags}))
    try:
        yield
    finally:
        detach(token)


def tag_attributes(
    *,
    team: str | None = None,
    feature: str | None = None,
    customer: str | None = None,
    user: str | None = None,
    session: str | None = None,
) -> dict[str, str]:
    """Span attributes for the tags that were said; empty ones were not."""
    tags = {
        semconv.TEAM: team,
        semconv.FEATURE: feature,
        semconv.CUSTOMER: customer,
        semconv.USER: user,
        semconv.SESSION: session,
    }
    return {name: str(value) for name, value in tags.items() if value is not None and value != ""}


def current_tags(context: Context | None = None) -> Mapping[str, str]:
    """The tags of a context, by attribute name; of the current one by default."""
    tags = get_value(_TAGS, context)
    return tags if isinstance(tags, Mapping) else {}


class TagSpans(SpanProcessor):
    """Puts the tags of the context on every span at its start; what the span says itself stays."""

    def __init__(self, defaults: Mapping[str, str]) -> None:
        self.defaults = dict(defaults)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        # A server's parent context comes from request headers and knows nothing of the block that runs it.
        here = current_tags(get_current())
        above = here if parent_context is None else current_tags(parent_context)
        if not (here or above or self.defaults):
            return
        tags = {**self.defaults, **here, **above}
        said = span.attributes or {}
        for name, value in tags.items():
            if name not in said:
                span.set_attribute(name, value)

    def on_end(self, span: ReadableSpan) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
