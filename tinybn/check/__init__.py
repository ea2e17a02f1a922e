"""Checks of gradients: against differences, and of fused ops against their compositions."""

from tinybn.check.gradcheck import GradientError, gradcheck

__all__ = ["GradientError", "gradcheck"]
