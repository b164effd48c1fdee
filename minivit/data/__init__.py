"""Data: what a model is trained on and tested with.

    train, test = load("digits")            # or "mnist", "fashion_mnist", or a folder of images
    train.images, train.labels, test[:100]

Read `dataset.py` (what a data set is, and the order of its batches), `sources.py` and `folder.py` (where data come
from), `augment.py` (more data out of the data). The lecture's remark that Vision Transformers "have less inductive
biases than CNNs, so they need more data to train" ("ViTs are Effective at Scale") is why augmentation is here at all.
"""

from minivit.data.augment import shift
from minivit.data.dataset import Dataset, batches
from minivit.data.sources import load, names

__all__ = ["Dataset", "batches", "load", "names", "shift"]
