"""Checks of gradients: against differences, and of fused ops against their compositions."""

from tinybn.check.cases import Case, cases
from tinybn.check.compare import EXACT, Rival, Row, compare
from tinybn.check.explain import Explanation, explain_batch_norm
from tinybn.check.gradcheck import GradientError, gradcheck

__all__ = [
    "EXACT",
    "Case",
    "Explanation",
    "GradientError",
    "Rival",
    "Row",
    "cases",
    "compare",
    "explain_batch_norm",
    "gradcheck",
]
