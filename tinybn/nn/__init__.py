"""Layers, which are ops with parameters, and containers that combine them."""

from tinybn.nn.layers import MLP, Dropout, Flatten, Linear, ReLU, Sequential, Sigmoid, Tanh
from tinybn.nn.module import Module
from tinybn.nn.norm import NORMS, BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__all__ = [
    "MLP", "NORMS", "BatchNorm", "Dropout", "Flatten", "GroupNorm", "InstanceNorm", "LayerNorm",
    "Linear", "Module", "RMSNorm", "ReLU", "Sequential", "Sigmoid", "Tanh",
]  # fmt: skip
