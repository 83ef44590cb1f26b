"""Options that say NAME=VALUE, several times."""

from collections.abc import Sequence

import click


def numbers(told: Sequence[str], option: str, shape: str = "NAME=NUMBER") -> dict[str, float]:
    """The number of each name.

    Raises:
        click.BadParameter: one is not of this shape.
    """
    found = {}
    for name, value in (_split(pair, option, shape) for pair in told):
        try:
            found[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is no number", param_hint=option) from None
    return found


def pairs(told: Sequence[str], option: str, shape: str) -> list[tuple[str, str]]:
    """Name and value of each, the name as long as it can be.

    Raises:
        click.BadParameter: one is not of this shape.
    """
    return [_split(pair, option, shape) for pair in told]


def _split(pair: str, option: str, shape: str) -> tuple[str, str]:
    left, equals, right = pair.rpartition("=")
    if not equals or not left or not right:
        raise click.BadParameter(f"{pair!r} is not {shape}", param_hint=option)
    return left, right
