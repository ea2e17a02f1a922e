"""Training on the ranks of mpiexec: as training.py does it, with a batch spread over them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tinybn as tb
from lab.training import OPTIMIZERS, Config, Progress, Run, accuracy, build, dataset
from tinybn import checkpoint, distributed


def train(
    config: Config,
    comm: distributed.Communicator,
    path: Path,
    *,
    resume: bool = False,
    every: int | None = None,
) -> tuple[Run, tb.nn.MLP]:
    """Train an MLP as `config` says, with batch norm over the batches of all ranks.

    Rank 0 looks at the validation and test data, shows the progress and writes the checkpoint.

    Args:
        path: the checkpoint.
        resume: go on from it.
        every: the number of steps between two checkpoints; an epoch by default.
    """
    model, data = build(config), dataset(config.data, config.seed, config.data_dir)
    distributed.synchronize(comm, model)
    optimizer = OPTIMIZERS[config.optimizer](
        model.parameters(),
        config.lr,
        **{"momentum": config.momentum} if config.optimizer == "sgd" else {},
    )
    x = tb.tensor(data.train.x, backend=config.backend).data
    batches = distributed.Shards(
        comm, x, data.train.y, config.batch_size, seed=config.seed, drop_last=True
    )
    run = Run(config)
    at = Progress(run)
    parts = {"model": model, "optimizer": optimizer, "batches": batches}
    own = {"progress": at}  # rank 0 looks, so the others have no curves
    if resume:
        distributed.load(comm, path, own, **parts)
    else:
        if comm.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.sweep(path)
        distributed.broadcast(comm, **parts)

    def slopes(x: Any, labels: np.ndarray, share: float) -> tb.Tensor:
        optimizer.zero_grad()
        loss = tb.ops.cross_entropy(model(x), labels) * share
        loss.backward()
        return loss

    if config.compile and (config.norm != "batch" or comm.size == 1):
        slopes = tb.compile(slopes)  # only where no message lies inside
    looks = config.looks(len(batches))
    bar = tqdm(
        total=looks[-1],
        initial=at.number,
        desc=f"{comm.size} ranks, norm={config.norm}",
        unit="step",
        disable=None if comm.rank == 0 else True,
        leave=False,
    )
    with bar, np.errstate(all="ignore"):
        while at.number < looks[-1] and run.diverged_at is None:
            for xb, yb, share in batches:
                start = time.perf_counter()
                loss = slopes(xb, yb, share)
                mean = distributed.average_gradients(comm, optimizer.params, loss)
                optimizer.step()
                at.spent += time.perf_counter() - start
                at.number += 1
                bar.update()
                last = at.number == looks[-1]
                if at.number in looks:
                    value = mean.item()  # the same on all ranks
                    run.diverged_at = None if math.isfinite(value) else at.number
                    if comm.rank == 0:
                        seen = [
                            accuracy(model, p, config.backend) for p in (data.validation, data.test)
                        ]
                        found = (at.number, at.spent, value, *seen)
                        curves = run.steps, run.seconds, run.loss, run.accuracy, run.test
                        for curve, number in zip(curves, found, strict=True):
                            curve.append(number)  # type: ignore[attr-defined]
                ended = last or run.diverged_at is not None
                if ended or at.number % (every or len(batches)) == 0:
                    distributed.save(comm, path, own, **parts)
                if ended:
                    break
    return run, model
