"""Is synchronised batch norm's closed form its composition, on batches that ranks share?

    mpiexec -n 3 python examples/compare_across_ranks.py

does on every rank what compare_gradients.py does in one process: it measures the output and the
derivatives of three orders, in float32 and float64, against the composition in higher precision. It
prints the worst of all ranks and exits with 1 on any miss. It needs `pip install 'tinybn[mpi]'`.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from compare_gradients import legend, summary

from tinybn import distributed
from tinybn.check import Row, cases, compare


def main() -> int:
    """The command."""
    with distributed.connect() as comm:
        rows = []
        for case in cases():
            x = case.inputs[0]
            if case.op == "batch_norm" and "mean" not in case.static and len(x) >= comm.size:
                inputs = [np.array_split(x, comm.size)[comm.rank], *case.inputs[1:]]
                found = compare("sync_batch_norm", inputs, {"comm": comm}, differences=False)
                rows += [(case.label, row) for row in found]
        texts = comm.gather(json.dumps(rows).encode(), "the results")
        every = [(label, Row(*row)) for text in texts for label, row in json.loads(text)]
        missed = sum(row.verdict != "ok" for _, row in every)
        if comm.rank == 0:
            print(f"{summary(every, {})}\n\n{legend()}\n\n{len(every)} results, {missed} off")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
