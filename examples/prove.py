"""Is the closed form of every fused op the same function as its composition? A proof with symbols.

Proves for every fused op that its output, its gradients and theirs are the same, for 2 to 6 numbers
that are normalized together: for all x, dy, gamma, beta and eps, not only for those tried (see
tinybn/check/prove.py). This takes half a minute. For example

    python examples/prove.py
    python examples/prove.py --op batch_norm layer_norm --n 3 4 --orders 3

prints a line per claim, and exits with 1 if one is not proved.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from tinybn.check import Claim, prove, small_cases
from tinybn.fusion import FUSED


def claims(ops: Sequence[str], sizes: Sequence[int], orders: int) -> Iterator[tuple[str, Claim]]:
    """Every claim about these ops, with the label of its case."""
    for n in sizes:
        for op, label, inputs, static in small_cases(n):
            if op in ops:
                yield from ((label, claim) for claim in prove(op, inputs, static, orders=orders))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", nargs="*", default=[*FUSED], choices=[*FUSED], metavar="OP")
    parser.add_argument("--n", nargs="*", type=int, default=[2, 3, 4, 5, 6], metavar="N")
    parser.add_argument("--orders", type=int, default=2, choices=[0, 1, 2, 3])
    options = parser.parse_args(arguments)
    start, found = time.perf_counter(), []
    try:
        for label, claim in claims(options.op, options.n, options.orders):
            print(f"{label}: {claim}", flush=True)
            found.append(claim)
    except ModuleNotFoundError as error:  # SymPy is an extra
        print(f"prove: {error}", file=sys.stderr)
        return 2
    failed = sum(not claim.proved for claim in found)
    verdict = (
        f"{failed} of {len(found)} claims are not" if failed else f"All {len(found)} claims are"
    )
    print(f"\n{verdict} proved, in {time.perf_counter() - start:.0f} seconds.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
