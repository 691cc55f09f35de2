from collections.abc import Iterator

import pytest

from tests.collectors.providers.reporting import Provider, reporting


@pytest.fixture
def provider() -> Iterator[Provider]:
    with reporting() as found:
        yield found
