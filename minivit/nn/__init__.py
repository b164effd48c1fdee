"""Modules: parameters with names, and the layers that a Vision Transformer is built from.

Read `module.py` first (what a module is), then `layers.py`.
"""

from minivit.nn.layers import MLP, Dropout, DropPath, LayerNorm, Linear
from minivit.nn.module import Module, Parameter

__all__ = ["MLP", "DropPath", "Dropout", "LayerNorm", "Linear", "Module", "Parameter"]
