"""tinybn: see where the gradient of batch normalization comes from, and check every digit of it."""

import tinybn.on_cupy  # noqa: F401, it declares CuPy's kernels
from tinybn import check, checkpoint, data, distributed, graph, microscope, nn, ops, optim
from tinybn.autodiff import backward, grad
from tinybn.backend import BackendMismatchError, BackendUnavailableError, use_backend
from tinybn.fusion import fused
from tinybn.init import seed
from tinybn.modes import detect_anomaly, no_grad, use_fused, watch
from tinybn.op import primitive
from tinybn.program import compile, program
from tinybn.tensor import Tensor, tensor

__version__ = "0.1.0"

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "Tensor",
    "backward",
    "check",
    "checkpoint",
    "compile",
    "data",
    "detect_anomaly",
    "distributed",
    "fused",
    "grad",
    "graph",
    "microscope",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "primitive",
    "program",
    "seed",
    "tensor",
    "use_backend",
    "use_fused",
    "watch",
]
