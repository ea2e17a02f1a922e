"""Exact numbers with symbols in them: polynomials, roots, quotients, exponentials and logarithms.

An `Element` is a polynomial with rational coefficients. Anything that is not a polynomial gets a
symbol of its own, which stands for a function of another element v:

    root      r = 1/√v, so r² v = 1 and √v = r v         exp   e = exp v
    quotient  q = 1/v,  so q v = 1                       log   l = log v

A maximum becomes a peak: a symbol for any number. Programs subtract it only to avoid overflow, so
it must cancel. SymPy adds, multiplies and differentiates the polynomials; this file knows the rules
for roots, quotients, exponentials and logarithms.

Source: Davenport, Siret & Tournier, Computer Algebra (2nd ed., 1993), chapter 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

EPS = 0.0009765629656612873
"""Programs are recorded with this eps, which occurs nowhere else: it is read as the symbol ε."""


class Meaning(NamedTuple):
    """What a symbol stands for. kind: a name from the table above. of: the v, or several."""

    kind: str
    of: tuple[Element, ...]


SLOPES: dict[str, Callable[[Element, Element], Element]] = {
    "root": lambda root, v: -(root**3) / 2,
    "quotient": lambda quotient, v: -(quotient**2),
    "exp": lambda exp, v: exp,
    "log": lambda log, v: v.inverse(),
}
"""The derivative of a symbol with respect to v. (A peak cancels, so it needs none.)"""

VALUES: dict[str, Callable[..., Any]] = {
    "root": lambda sympy, v: 1 / sympy.sqrt(v),
    "quotient": lambda sympy, v: 1 / v,
    "exp": lambda sympy, v: sympy.exp(v),
    "log": lambda sympy, v: sympy.log(v),
    "peak": lambda sympy, *v: sympy.Max(*v),
}
"""The value of a symbol, given that of v."""


class Algebra:
    """Symbols and what they stand for.

    The first `free` symbols stand for any number; the very first is ε. Programs add symbols with a
    meaning as they need them, and then `ring`, SymPy's polynomials in all symbols, grows.
    """

    def __init__(self, free: int) -> None:
        try:
            from sympy import QQ, symbols
            from sympy.polys.rings import PolyRing
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("a proof needs SymPy: pip install 'tinybn[prove]'") from error

        self.new_ring: Callable[[int], Any] = lambda n: PolyRing(symbols(f"s:{n}"), QQ)
        self.ring: Any = self.new_ring(free)
        self.free = [self.generator(i) for i in range(free)]
        self.meanings: dict[int, Meaning] = {}
        self.known: dict[Any, Element] = {}
        self.inverses: dict[Any, Element] = {}

    def generator(self, i: int) -> Element:
        """The symbol with this number, as an element."""
        return Element(self, self.ring.gens[i])

    def element(self, number: Any) -> Element:
        """The simplest fraction that rounds to a float: 1/6 for 0.16666666666666666."""
        if isinstance(number, Element):
            return number
        if number == EPS:
            return self.free[0]
        short = Fraction(number).limit_denominator(10**6)
        exact = short if float(short) == number else Fraction(number)
        return Element(self, self.ring.ground_new(self.ring.domain(*exact.as_integer_ratio())))

    def symbol(self, kind: str, *of: Element) -> Element:
        """The symbol with this meaning; equal arguments share one, but each peak gets its own."""
        key = (kind, *(v.key() for v in of))
        if kind == "peak" or key not in self.known:
            self.meanings[self.ring.ngens] = Meaning(kind, of)
            self.ring = self.new_ring(self.ring.ngens + 1)
            self.known[key] = self.generator(-1)
        return self.known[key]

    def is_zero(self, e: Element) -> bool:
        """Whether e is 0 for all numbers.

        Replace r² and q by 1/v and multiply by a power of v, which is not 0; for each symbol,
        newest first. If that leaves the polynomial 0, e is 0.
        """
        for i, (kind, of) in reversed(self.meanings.items()):
            if e.poly and kind in ("root", "quotient"):
                parts: dict[int, Any] = {}
                for powers, c in e.current().iterterms():
                    high, low = divmod(powers[i], 2 if kind == "root" else 1)
                    parts.setdefault(high, {})[*powers[:i], low, *powers[i + 1 :]] = c
                top, e = max(parts), self.element(0)
                for high, part in parts.items():
                    e += Element(self, self.ring.from_dict(part)) * of[0] ** (top - high)
        return not e.poly

    def derivative(self, e: Element, x: Element) -> Element:
        """∂e/∂x by the chain rule, through all symbols that depend on x."""
        total = Element(self, e.current().diff(x.current()))
        for i, (kind, of) in [*self.meanings.items()]:
            symbol = self.generator(i)
            outer = Element(self, e.current().diff(symbol.poly))
            if outer.poly and kind in SLOPES:
                inner = self.derivative(of[0], x)
                total += inner * SLOPES[kind](symbol, of[0]) * outer
        return total

    def numbers(self, free: Sequence[int]) -> list[Any] | None:
        """SymPy's values of all symbols, given those of the free ones; None if some v ≤ 0."""
        import sympy

        values: list[Any] = [*free, *[0] * len(self.meanings)]
        for i, (kind, of) in self.meanings.items():
            v = [e.at(values) for e in of]
            if kind in ("root", "quotient", "log") and not v[0] > 0:
                return None
            values[i] = VALUES[kind](sympy, *v)
        return values


class Element:
    """A polynomial in the symbols of an algebra; it has the operators and functions of a number."""

    __slots__ = ("algebra", "poly")

    def __init__(self, algebra: Algebra, poly: Any) -> None:
        self.algebra, self.poly = algebra, poly

    def current(self) -> Any:
        """The polynomial in today's ring."""
        if self.poly.ring is not self.algebra.ring:
            self.poly = self.poly.set_ring(self.algebra.ring)
        return self.poly

    def key(self) -> Any:
        """Equal for equal polynomials, in whichever ring."""
        return frozenset(
            (tuple((i, n) for i, n in enumerate(powers) if n), c)
            for powers, c in self.poly.iterterms()
        )

    def at(self, numbers: Sequence[Any]) -> Any:
        """SymPy's value of the element, given those of all symbols."""
        return self.current().as_expr(*numbers)

    def _with(self, poly: Any) -> Element:
        return Element(self.algebra, poly)

    def _other(self, b: Any) -> Any:
        return self.algebra.element(b).current()

    def __add__(self, b: Any) -> Element:
        return self._with(self.current() + self._other(b))

    def __sub__(self, b: Any) -> Element:
        return self._with(self.current() - self._other(b))

    def __mul__(self, b: Any) -> Element:
        return self._with(self.current() * self._other(b))

    def __truediv__(self, b: Any) -> Element:
        return self * self.algebra.element(b).inverse()

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, a: Any) -> Element:
        return -self + a

    def __rtruediv__(self, a: Any) -> Element:
        return self.inverse() * a

    def __neg__(self) -> Element:
        return self._with(-self.poly)

    def __pow__(self, n: int) -> Element:
        return self._with(self.poly ** int(n))

    def inverse(self) -> Element:
        """1 / self: r for a root √v, and a quotient for anything else that is not a number."""
        if not self.poly:
            raise ZeroDivisionError("the program divides by 0, whatever the inputs are")
        v = self._with(self.poly.monic())
        if v.poly == 1:
            found = v
        else:
            found = self.algebra.inverses.get(v.key()) or self.algebra.symbol("quotient", v)
        return self._with(found.poly.quo_ground(self.poly.LC))

    def sqrt(self) -> Element:
        """√v = r v."""
        r = self.algebra.symbol("root", self)
        root = r * self
        monic = self._with(root.poly.monic())
        self.algebra.inverses[monic.key()] = self._with(r.poly.mul_ground(root.poly.LC))
        return root

    def exp(self) -> Element:
        """A product with a factor for each term: exp(a - b) is exp(a) exp(-b)."""
        product = self.algebra.element(1)
        for term in self.poly.terms():
            v = self._with(self.poly.ring.from_terms([term]))
            product *= self.algebra.symbol("exp", v)
        return product

    def log(self) -> Element:
        """A sum if there are common factors: log(exp(-b) v) is log v - b."""
        rest, total = self.current(), self.algebra.element(0)
        for i, (kind, of) in self.algebra.meanings.items():
            n = min(powers[i] for powers in rest.itermonoms())
            if kind == "exp" and n:
                total += of[0] * n
                rest = rest.quo_term(((rest.ring.gens[i] ** n).LM, 1))
        return total + self.algebra.symbol("log", self._with(rest))
