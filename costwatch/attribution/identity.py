"""What makes a span the same span, and a call the same call, whoever tells of it."""

from hashlib import blake2b
from uuid import UUID

from collectors.observation import Observation


def span_key(trace_id: bytes, span_id: bytes) -> UUID:
    """One id for a span. Both parts count: span ids alone are only 8 bytes."""
    return UUID(bytes=blake2b(trace_id + span_id, digest_size=16, person=b"span").digest())


def call_id(observation: Observation) -> UUID:
    """The call that a span speaks of: by the provider's response id where there is one, else by the span.

    The response id is the only thing that client, framework, gateway and server all know; traces are often
    different ones.
    """
    if observation.response_id:
        said = observation.response_id.encode()
        return UUID(bytes=blake2b(said, digest_size=16, person=b"response").digest())
    return span_key(observation.trace_id, observation.span_id)
