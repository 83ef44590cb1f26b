"""Categories of queries: a closed taxonomy, who tells them apart, and which expert answers which.

Importing this package loads numpy alone; solving loads SciPy.
"""

from .mapping import (
    CategoryMapping,
    MappingBudget,
    MappingProblem,
    budget_curve,
    build_mapping_problem,
    solve_mapping,
    upper_bound,
)
from .taxonomy import GENERAL, Taxonomy

__all__ = [
    "GENERAL",
    "CategoryMapping",
    "MappingBudget",
    "MappingProblem",
    "Taxonomy",
    "budget_curve",
    "build_mapping_problem",
    "solve_mapping",
    "upper_bound",
]
