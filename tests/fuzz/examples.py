"""How many examples a test tries."""

from __future__ import annotations

from hypothesis import settings


def share(times: float) -> settings:
    """So many times the number of examples of the profile: see conftest.py."""
    return settings(max_examples=max(1, round(times * settings().max_examples)))
