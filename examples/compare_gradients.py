"""Is the closed form of every fused op the same function as its composition, and how exact is it?

Measures every fused op on many inputs, in float32 and float64, on every backend that is there: the
output and derivatives of three orders, against the composition in higher precision. This takes half
a minute, or a minute with PyTorch and JAX, which add a column each. With SymPy, a column says for
which n the two have been proved equal (see prove.py). For example

    python examples/compare_gradients.py
    python examples/compare_gradients.py --op batch_norm --rows

prints a table, writes result.json and errors.png to the folder --out, and exits with 1 on any miss.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from prove import claims
from tqdm import tqdm

from lab import peers
from lab.figures import panels, save
from lab.files import dumps, table, write
from tinybn import backend
from tinybn.check import EXACT, Claim, Row, cases, compare
from tinybn.fusion import FUSED

TITLES = {"torch": "PyTorch", "jax": "JAX"}
MARKS = {  # colour (Okabe & Ito) and marker per method
    "fused": ("#0072B2", "o"),
    "composition": ("#D55E00", "x"),
    "differences": ("#009E73", "+"),
    "torch": ("#000000", "2"),
    "jax": ("#CC79A7", "1"),
}


def measure(ops: Sequence[str], orders: int, differences_up_to: int = 80) -> list[tuple[str, Row]]:
    """The rows of all cases of these ops, each with the label of its case."""
    backends = [name for name, problem in backend.problems().items() if problem is None]
    chosen = [case for case in cases() if case.op in ops]
    found = []
    for case in tqdm(chosen, desc="compare", unit="case", disable=None, leave=False):
        names = FUSED[case.op].names[: len(case.inputs)]
        rows = compare(
            case.op,
            case.inputs,
            case.static,
            orders=orders,
            backends=backends,
            differences=sum(x.size for x in case.inputs) <= differences_up_to,
            rivals={n: peers.PEERS[n](case.op, names, case.static) for n in peers.installed()},
        )
        found += [(case.label, row) for row in rows]
    return found


def proofs(ops: Sequence[str], orders: int) -> dict[tuple[str, int], list[Claim]]:
    """Claims by op and order (0, 1 and 2), for n = 2, 3 and 4; none without SymPy."""
    found: dict[tuple[str, int], list[Claim]] = {}
    try:
        for _, claim in claims(ops, (2, 3, 4), min(orders, 2)):
            found.setdefault((claim.op, claim.order), []).append(claim)
    except ModuleNotFoundError:
        pass
    return found


def summary(
    found: Sequence[tuple[str, Row]], proved: Mapping[tuple[str, int], Sequence[Claim]]
) -> str:
    """Per op, dtype and order: the worst over all cases, inputs and backends, and the proofs."""
    rows = [row for _, row in found]
    methods = [m for m in MARKS if any(row.method == m for row in rows)]
    lines = [
        ("op", "dtype", "order", *(TITLES.get(m, m) for m in methods), "rel", "verdict", "proved")
    ]
    for key in dict.fromkeys((row.op, row.dtype, row.order) for row in rows):
        group = [row for row in rows if (row.op, row.dtype, row.order) == key]
        cells = [_worst(row for row in group if row.method == method) for method in methods]
        fused = [row.max_rel for row in group if row.method == "fused"]
        verdict = "ok" if all(row.verdict in ("ok", "") for row in group) else "MISS"
        proof = _proof(proved.get((key[0], key[2]), []))
        lines.append((key[0], key[1], str(key[2]), *cells, f"{max(fused):.0e}", verdict, proof))
    return table(lines)


def _proof(about: Sequence[Claim]) -> str:
    if not about:
        return "-"
    return "n = 2, 3, 4" if all(claim.proved for claim in about) else "NO"


def _worst(rows: Iterable[Row]) -> str:
    """max (median) of the ULP of some rows."""
    rows = list(rows)
    if not rows:
        return "-"
    largest = max(row.max_ulp for row in rows)
    return f"{largest:.3g} ({statistics.median(row.median_ulp for row in rows):.2g})"


def listing(found: Iterable[tuple[str, Row]]) -> str:
    """Every row."""
    lines = [("op", "case", "backend", "dtype", "order", "input", "method", "max abs", "max rel",
              "max ULP", "median ULP", "limit", "verdict")]  # fmt: skip
    lines += [
        (r.op, label, r.backend or "-", r.dtype, str(r.order), r.input, r.method,
         f"{r.max_abs:.1e}", f"{r.max_rel:.1e}", f"{r.max_ulp:.3g}", f"{r.median_ulp:.2g}",
         f"{r.limit:.3g}", r.verdict or "-")
        for label, r in found
    ]  # fmt: skip
    return table(lines)


def legend() -> str:
    """What the columns of the summary mean."""
    eps = np.finfo(EXACT).eps
    lines = [
        "max (median) error in ULP: in units of eps times the scale of the result. Reference: the",
        f"composition in {EXACT} (eps = {eps:.0e}). rel: the largest error of the closed form over",
        "the largest element. proved: the two are equal, whatever the inputs, if n numbers are",
        "normalized together (-: not tried).",
    ]
    if eps >= np.finfo(np.float64).eps:
        lines += [
            "Here numpy.longdouble is no more precise than float64: in float64 the composition is",
            "compared with itself (0), and the closed form with a result as inexact as its own.",
        ]
    return "\n".join(lines)


def plot(found: Sequence[tuple[str, Row]], path: Path) -> None:
    """Draw the largest error of every row, in ULP: a panel per dtype and order."""
    rows = [row for _, row in found]
    ops, orders = list(dict.fromkeys(r.op for r in rows)), sorted({r.order for r in rows})
    dtypes = list(dict.fromkeys(r.dtype for r in rows))
    methods = [m for m in MARKS if any(r.method == m for r in rows)]
    size = {"width": 3 * len(orders) + 1, "height": 5.6}
    figure, grid = panels(len(dtypes), len(orders), **size, most=10)  # orders 0 to 4
    for axes in grid.flat:
        axes.sharey(grid[0, 0])
    for line, dtype in zip(grid, dtypes, strict=True):
        for axes, order in zip(line, orders, strict=True):
            for shift, method in enumerate(methods):
                chosen = [r for r in rows if (r.dtype, r.order, r.method) == (dtype, order, method)]
                colour, marker = MARKS[method]
                axes.plot(
                    [ops.index(r.op) + 0.16 * (shift - len(methods) / 2 + 0.5) for r in chosen],
                    [np.clip(r.max_ulp, 0.1, 1e9) for r in chosen],
                    linestyle="",
                    color=colour,
                    marker=marker,
                    markersize=4,
                    alpha=0.7,
                    label=TITLES.get(method, method),
                )
            limits = [
                r.limit for r in rows if (r.dtype, r.order, r.method) == (dtype, order, "fused")
            ]
            axes.axhline(min(limits), color="#888888", lw=0.8, ls=":")
            axes.set(yscale="log")
            axes.set_title(f"{dtype}, {'output' if order == 0 else f'order {order}'}", fontsize=9)
            axes.set_xticks(range(len(ops)), ops, rotation=60, ha="right", fontsize=8)
        line[0].set_ylabel("largest error (ULP of the scale)")
    grid[0, 0].legend(frameon=False, fontsize=7, loc="upper left")
    missed = sum(r.verdict not in ("ok", "") for r in rows)
    title = f"Fused ops: {len(rows)} results, {missed} off limits (dotted: the smallest limit)"
    save(figure, path, title)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", nargs="*", default=[*FUSED], choices=[*FUSED], metavar="OP")
    parser.add_argument("--orders", type=int, default=3, choices=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", action="store_true", help="print every row, not a summary")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_gradients"))
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"compare_gradients: {error}", file=sys.stderr)
        return 2
    found = measure(options.op, options.orders)
    proved = proofs(options.op, options.orders)
    misses = [pair for pair in found if pair[1].verdict not in ("ok", "")]
    refuted = [c for about in proved.values() for c in about if not c.proved]
    print(listing(found) if options.rows else summary(found, proved))
    print(f"\n{legend()}")
    rows = [{"case": label, **row._asdict()} for label, row in found]
    write(options.out / "result.json", dumps(rows, indent=1))
    if not options.no_plot:
        plot(found, options.out / "errors.png")
    if misses:
        print(f"\n{len(misses)} of {len(found)} results are off:\n\n{listing(misses)}")
    else:
        print(f"\nAll {len(found)} results are right. Written to {options.out}.")
    for claim in refuted:
        print(f"\n{claim}")
    return 1 if misses or refuted else 0


if __name__ == "__main__":
    sys.exit(main())
