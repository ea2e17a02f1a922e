"""Check gradients against finite differences, and fused ops against their compositions."""

from tinybn.check.cases import Case, cases, small_cases
from tinybn.check.compare import EXACT, Rival, compare
from tinybn.check.explain import Explanation, explain_batch_norm
from tinybn.check.gradcheck import GradientError, gradcheck
from tinybn.check.prove import Claim, Counterexample, prove
from tinybn.check.table import Row, Table

__all__ = [
    "EXACT",
    "Case",
    "Claim",
    "Counterexample",
    "Explanation",
    "GradientError",
    "Rival",
    "Row",
    "Table",
    "cases",
    "compare",
    "explain_batch_norm",
    "gradcheck",
    "prove",
    "small_cases",
]
