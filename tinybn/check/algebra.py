"""Exact arithmetic with symbols: polynomials, roots, quotients, exponentials and logarithms.

Every number is a SymPy polynomial with rational coefficients. Anything that is not a polynomial
gets its own symbol, which denotes a function of another polynomial v:

    root      r = 1/√v, so r² v = 1 and √v = r v         exp   e = exp v
    quotient  q = 1/v,  so q v = 1                       log   l = log v

A maximum becomes a *peak*, a symbol that may be any number: programs subtract it only to avoid
overflow, so it must cancel. SymPy adds, multiplies and differentiates the polynomials; this file
has the rules for roots, quotients, exponentials and logarithms.

Source: Davenport, Siret & Tournier, Computer Algebra (2nd ed., 1993), chapter 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

Polynomial: TypeAlias = Any
"""SymPy's PolyElement, which is untyped."""

EPS = 0.0009765629656612873
"""Programs are recorded with this eps. No other constant equals it, so it is read as symbol ε."""


VALUES: dict[str, Callable[..., Any]] = {
    "root": lambda sympy, v: 1 / sympy.sqrt(v),
    "quotient": lambda sympy, v: 1 / v,
    "exp": lambda sympy, v: sympy.exp(v),
    "log": lambda sympy, v: sympy.log(v),
    "peak": lambda sympy, *v: sympy.Max(*v),
}
"""The value of a symbol, given that of v."""


class Algebra:
    """Symbols and their meanings.

    The first `free` symbols may be any number; the very first is ε. Programs add symbols with a
    meaning as they need them: one of the kinds above, and the v that it is a function of (a peak
    has several). With each, `ring`, SymPy's polynomials in all symbols, grows.
    """

    def __init__(self, free: int) -> None:
        try:
            from sympy import QQ, symbols
            from sympy.polys.rings import PolyRing
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("a proof needs SymPy: pip install 'tinybn[prove]'") from error

        self.new_ring: Callable[[int], Any] = lambda n: PolyRing(symbols(f"s:{n}"), QQ)
        self.ring: Any = self.new_ring(free)
        self.free: list[Polynomial] = [*self.ring.gens]
        self.meanings: dict[int, tuple[str, tuple[Polynomial, ...]]] = {}

    def polynomial(self, number: Any) -> Polynomial:
        """A number or polynomial, as a polynomial in the current ring.

        A float becomes the simplest fraction that rounds to it: 1/6 for 0.16666666666666666.
        """
        if hasattr(number, "ring"):
            if number.ring is self.ring:
                return number
            new = (0,) * (self.ring.ngens - number.ring.ngens)
            return self.ring.from_dict({powers + new: c for powers, c in number.iterterms()})
        if number == EPS:
            return self.ring.gens[0]
        short = Fraction(number).limit_denominator(10**6)
        exact = short if float(short) == number else Fraction(number)
        return self.ring.ground_new(self.ring.domain(*exact.as_integer_ratio()))

    def symbol(self, kind: str, *of: Polynomial) -> Polynomial:
        """The symbol with this meaning; equal arguments share one, but each peak gets its own."""
        of = tuple(map(self.polynomial, of))
        for i, meaning in self.meanings.items():
            if meaning == (kind, of) and kind != "peak":
                return self.ring.gens[i]
        self.meanings[self.ring.ngens] = kind, of
        self.ring = self.new_ring(self.ring.ngens + 1)
        for i, (kind, of) in self.meanings.items():
            self.meanings[i] = kind, tuple(map(self.polynomial, of))
        return self.ring.gens[-1]

    def inverse(self, a: Polynomial) -> Polynomial:
        """1 / a: r for a root √v, and a quotient for anything else that is not a number."""
        if not a:
            raise ZeroDivisionError("the program divides by 0, whatever the inputs are")
        a = self.polynomial(a)
        v = a.monic()
        if v == 1:
            return v / a.LC
        for i, (kind, (of, *_)) in self.meanings.items():
            root = self.ring.gens[i]
            if kind == "root" and (root * of).monic() == v:
                return root * (root * of).LC / a.LC
        return self.symbol("quotient", v) / a.LC

    def product(self, *factors: Polynomial) -> Polynomial:
        """Π factors, in the current ring."""
        return math.prod(map(self.polynomial, factors), start=self.polynomial(1))

    def power(self, a: Polynomial, exponent: float) -> Polynomial:
        """a to the power of a whole number."""
        n = int(exponent)
        if n != exponent:
            raise TypeError(f"a proof can only handle whole powers, got {exponent}")
        return a**n if n >= 0 else self.inverse(a) ** -n

    def sqrt(self, v: Polynomial) -> Polynomial:
        """√v = r v."""
        return self.product(self.symbol("root", v), v)

    def exp(self, a: Polynomial) -> Polynomial:
        """A product with a factor for each term: exp(a - b) is exp(a) exp(-b)."""
        return self.product(*[self.symbol("exp", a.ring.from_terms([t])) for t in a.terms()])

    def log(self, a: Polynomial) -> Polynomial:
        """A sum if there are common factors: log(exp(-b) v) is log v - b."""
        a, total = self.polynomial(a), self.polynomial(0)
        for i, (kind, (v, *_)) in self.meanings.items():
            n = min(powers[i] for powers in a.itermonoms())
            if kind == "exp" and n:
                total += v * n
                a = a.quo_term(((self.ring.gens[i] ** n).LM, 1))
        rest = self.symbol("log", a)
        return rest + self.polynomial(total)

    def is_zero(self, a: Polynomial) -> bool:
        """Whether a is 0 for all numbers.

        For each symbol, newest first, replace r² and q by 1/v, and multiply by a power of v, which
        is not 0. If that leaves the polynomial 0, a is 0.
        """
        a = self.polynomial(a)
        for i, (kind, (v, *_)) in reversed(self.meanings.items()):
            if a and kind in ("root", "quotient"):
                parts: dict[int, Any] = {}
                for powers, c in a.iterterms():
                    high, low = divmod(powers[i], 2 if kind == "root" else 1)
                    parts.setdefault(high, {})[*powers[:i], low, *powers[i + 1 :]] = c
                top, a = max(parts), self.polynomial(0)
                for high, part in parts.items():
                    a += self.ring.from_dict(part) * v ** (top - high)
        return not a

    def derivative(self, a: Polynomial, x: Polynomial) -> Polynomial:
        """∂a/∂x by the chain rule, through all symbols that depend on x."""
        total = self.polynomial(a).diff(self.polynomial(x))
        for i, (kind, (v, *_)) in [*self.meanings.items()]:
            symbol = self.ring.gens[i]
            outer = self.polynomial(a).diff(symbol)
            if outer and kind != "peak":  # a peak cancels
                term = self.product(self.derivative(v, x), self.slope(symbol, kind, v), outer)
                total = self.polynomial(total) + term
        return total

    def slope(self, symbol: Polynomial, kind: str, v: Polynomial) -> Polynomial:
        """The derivative of a symbol with respect to v."""
        if kind == "root":
            return -(symbol**3) / 2
        if kind == "quotient":
            return -(symbol**2)
        return symbol if kind == "exp" else self.inverse(v)

    def numbers(self, free: Sequence[int]) -> list[Any] | None:
        """SymPy's values of all symbols, given those of the free ones; None if some v <= 0."""
        import sympy

        values: list[Any] = [*free, *[0] * len(self.meanings)]
        for i, (kind, of) in self.meanings.items():
            v = [polynomial.as_expr(*values) for polynomial in of]
            if kind in ("root", "quotient", "log") and not v[0] > 0:
                return None
            values[i] = VALUES[kind](sympy, *v)
        return values
