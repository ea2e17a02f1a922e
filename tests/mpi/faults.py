"""What goes wrong on rank 1 while all ranks train: run by test_faults.py under mpiexec."""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import tinybn as tb
from tinybn import distributed


def main(fault, path):
    with distributed.connect(patience=float(os.environ.get("PATIENCE", "60"))) as comm:
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 3, 40)
        noise = np.random.default_rng([0, comm.rank])  # other on each rank
        model = tb.nn.Sequential(
            tb.nn.Linear(6, 5, rng=rng), tb.nn.BatchNorm(5, sync=comm),
            tb.nn.Dropout(0.1, rng=noise), tb.nn.Linear(5, 3, rng=rng),
        )  # fmt: skip
        optimizer = tb.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        batches = distributed.Shards(comm, x, y, 8)
        parts = {"model": model, "optimizer": optimizer, "batches": batches}
        own = {"noise": tb.init.RandomState(noise)}
        step = 0
        if fault == "resume":
            distributed.load(comm, path, own, **parts)
            step = 6
        else:
            distributed.broadcast(comm, **parts)
        while step < 15:
            for xb, yb, share in batches:
                step += 1
                if step == 7 and comm.rank == 1:
                    print(f"fault {time.time()}", flush=True)
                    if fault == "raise":
                        raise ValueError("a bad example\nin two lines")
                    if fault == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if fault == "exit":
                        os._exit(3)
                    if fault == "stop":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    if fault == "batches":
                        return
                    if fault == "shape":
                        model = tb.nn.Sequential(tb.nn.Linear(6, 4), tb.nn.BatchNorm(4, sync=comm),
                                                 tb.nn.Linear(4, 3))  # fmt: skip
                    if fault == "eval":
                        model.eval()
                    if fault == "features":
                        xb = xb[:, :4]
                    if fault == "break":
                        optimizer.zero_grad()
                        tb.ops.cross_entropy(
                            model[3](np.ones((2, 5), np.float32)), yb[:2]
                        ).backward()
                        distributed.average_gradients(comm, optimizer.params)
                optimizer.zero_grad()
                loss = tb.ops.cross_entropy(model(xb), yb) * share
                loss.backward()
                distributed.average_gradients(comm, optimizer.params, loss)
                optimizer.step()
                if step == 6 or (fault == "state" and step == 7):
                    if fault == "state" and step == 7 and comm.rank == 1:
                        model[0].weight.data = model[0].weight.data + 1e-6
                    distributed.save(comm, path, own, **parts)
        digest = hashlib.sha256(b"".join(a.tobytes() for a in model.state_dict().values()))
        print(f"rank {comm.rank} came to the end: {digest.hexdigest()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
