"""Tasks that take milliseconds, for all that the benchmark does but the waiting."""

from minivit.bench.rows import Task
from minivit.models.vit import ViTConfig

CONFIG = ViTConfig(image_size=(8, 12), patch_size=4, channels=3, embed_dim=24, depth=2, num_heads=3, num_classes=5,
                   mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))  # fmt: skip
NUMPY, ATTACKS = ("pytorch", "autograd", "mygrad"), ("pytorch", "torchattacks", "foolbox")
TRAIN = Task("train", "a tiny training step", CONFIG, 4, NUMPY)
INFER = Task("infer", "tiny logits", CONFIG, 2, ("pytorch",))
PGD = Task("pgd", "a tiny attack", CONFIG, 6, ATTACKS)
