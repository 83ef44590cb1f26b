"""What holds for every test."""

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def wait_for_imports() -> Iterator[None]:
    """An import that a gateway began in the background ends with its test.

    Two threads that import parts of LiteLLM at once get halves of it, and warnings are the process's.
    """
    yield
    for thread in threading.enumerate():
        if thread.name == "import":
            thread.join(60)
