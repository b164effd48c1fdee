"""The Vision Transformer, part by part as in the lecture, and what is built from it.

Read in this order: `patches.py` (an image becomes a sequence), `positions.py`, `attention.py`, `encoder.py`, `vit.py`;
then `registry.py` (the named sizes), `counting.py` (multiply-accumulates), `maps.py` (looking inside) and
`checkpoints.py`.
"""

from minivit.models.attention import MultiHeadSelfAttention
from minivit.models.checkpoints import load, save
from minivit.models.counting import count_macs
from minivit.models.encoder import EncoderBlock, by_operation
from minivit.models.maps import attention_maps, attention_rollout
from minivit.models.patches import Normalize, PatchEmbedding
from minivit.models.positions import RelativePositionBias, sinusoidal, sinusoidal_2d
from minivit.models.registry import create, names
from minivit.models.vit import ViT

__all__ = [
    "EncoderBlock",
    "MultiHeadSelfAttention",
    "Normalize",
    "PatchEmbedding",
    "RelativePositionBias",
    "ViT",
    "attention_maps",
    "attention_rollout",
    "by_operation",
    "count_macs",
    "create",
    "load",
    "names",
    "save",
    "sinusoidal",
    "sinusoidal_2d",
]
