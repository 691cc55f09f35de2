"""Who pays for a call of one body, worked out as the receiver does: own tags, ancestors', the resource's."""

from collectors.observation import Decoded, Observation, Tags

_FIELDS = ("team", "feature", "customer", "user", "session")


def tags_of(decoded: Decoded, seen: Observation) -> Tags:
    spans = (*decoded.links, *decoded.observations)
    links = {(one.trace_id, one.span_id): one for one in spans}
    line = [seen.tags]
    parent = seen.parent_span_id
    while parent is not None and (seen.trace_id, parent) in links:
        link = links[seen.trace_id, parent]
        line.append(link.tags)
        parent = link.parent_span_id
    line.append(seen.resource_tags)
    said = {name: [getattr(tags, name) for tags in line if getattr(tags, name)] for name in _FIELDS}
    return Tags(**{name: values[0] for name, values in said.items() if values})
