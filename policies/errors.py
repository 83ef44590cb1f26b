"""The error tree of `policies`.

PoliciesError
├── Infeasible       no expert meets the constraints: carries each expert's reason
├── UnknownFlag      a flag that does not exist, or does not take its value
└── Unreachable      no weight on cost meets the target, or there is no λ table
"""

from collections.abc import Mapping


class PoliciesError(Exception):
    """Anything `policies` raises on purpose."""


class Infeasible(PoliciesError):  # noqa: N818  the word of optimisation, as in "infeasible plan"
    """No expert is eligible for this query.

    Attributes:
        rejections: for every expert of the pool, the constraint it failed.
        temporary: True when waiting may help: an expert was rejected only because it is unavailable now.
    """

    def __init__(self, rejections: Mapping[str, str], temporary: bool) -> None:
        self.rejections = dict(rejections)
        self.temporary = temporary
        why = "; ".join(f"{name}: {reason}" for name, reason in self.rejections.items())
        super().__init__(f"no expert meets the constraints ({why})")


class UnknownFlag(PoliciesError):  # noqa: N818
    """A flag that does not exist, or that does not take its value.

    Attributes:
        name: of the flag.
    """

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


class Unreachable(PoliciesError):  # noqa: N818
    """A target in dollars or quality that no weight on cost meets; the message says what can be met."""
