"""Data-parallel training over MPI: `mpiexec -n 4 python script.py` runs one program on four ranks.

    with tb.distributed.connect() as comm:
        model = tb.nn.Sequential(tb.nn.Linear(64, 32), tb.nn.BatchNorm(32, sync=comm), ...)
        optimizer = tb.optim.SGD(model.parameters(), lr=0.1)
        tb.distributed.broadcast(comm, model=model, optimizer=optimizer)
        for x, y, share in tb.distributed.Shards(comm, x_train, y_train, 64, seed=0):
            optimizer.zero_grad()
            loss = tb.ops.cross_entropy(model(x), y) * share
            loss.backward()
            loss = tb.distributed.average_gradients(comm, optimizer.params, loss)
            optimizer.step()

The gradient through the ranks is the chain rule again: see ops.py, and norm.py for batch norm over
a batch that is spread over ranks. mpi4py is imported by `connect`, and by nothing before it.
"""

from tinybn.distributed.communicator import ALONE, Communicator, DistributedError, connect
from tinybn.distributed.norm import sync_batch_norm
from tinybn.distributed.ops import all_gather, all_reduce
from tinybn.distributed.state import agree, broadcast, load, save
from tinybn.distributed.training import Shards, average_buffers, average_gradients, synchronize

__all__ = [
    "ALONE",
    "Communicator",
    "DistributedError",
    "Shards",
    "agree",
    "all_gather",
    "all_reduce",
    "average_buffers",
    "average_gradients",
    "broadcast",
    "connect",
    "load",
    "save",
    "sync_batch_norm",
    "synchronize",
]
