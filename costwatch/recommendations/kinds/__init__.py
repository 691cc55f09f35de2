"""The kinds of advice: one file each. A new kind is a file and a line here."""

from costwatch.recommendations.finding import Kind
from costwatch.recommendations.kinds.prefix_cache import PrefixCache
from costwatch.recommendations.kinds.response_cache import ResponseCache

KINDS: tuple[Kind, ...] = (PrefixCache(), ResponseCache())
