"""Recorded and compiled steps on the host; those on CuPy are tested in tests/on_cupy."""

import pytest


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.host("programs on NumPy and Numba; on_cupy has those on CuPy"))
