"""Hosts of URLs."""


def host_of(url: str) -> str:
    """The host of a URL; nothing else of it, for a path may hold an account."""
    rest = url.partition("://")[2] or url
    authority = rest.partition("/")[0].rpartition("@")[2]
    if authority.startswith("["):  # IPv6
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
