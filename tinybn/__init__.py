"""tinybn: see where the gradient of batch normalization comes from, and check every digit of it."""

from tinybn import check, data, graph, nn, ops, optim
from tinybn.autodiff import backward, detect_anomaly, grad, no_grad, use_fused
from tinybn.backend import (
    BackendMismatchError,
    BackendUnavailableError,
    keep_freed_memory,
    use_backend,
)
from tinybn.init import seed
from tinybn.tensor import Tensor, tensor

keep_freed_memory()  # or each training step would ask the system for its memory again

__version__ = "0.1.0"

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "Tensor",
    "backward",
    "check",
    "data",
    "detect_anomaly",
    "grad",
    "graph",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "seed",
    "tensor",
    "use_backend",
    "use_fused",
]
