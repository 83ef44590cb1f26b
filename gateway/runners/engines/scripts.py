"""The small programs around engines: run by the same Python, importing nothing of the gateway."""

import sys
from pathlib import Path


def child_argv(name: str) -> tuple[str, ...]:
    """The command line of one of them.

    A script, not `-m`: the child then imports nothing of the gateway. -P, because the script's folder must
    not shadow modules of the standard library.
    """
    return (sys.executable, "-P", str(Path(__file__).with_name(name)))
