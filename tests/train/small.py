"""A small ViT and a few digits: what a training takes milliseconds with. Also run as a script, by the tests that kill:
`python -m tests.train.small RUN_DIR [resume]` trains with every part switched on and writes RUN_DIR/model.safetensors."""

import sys

import minivit as mv

OPTIONS = {
    "epochs": 3, "seed": 5, "batch_size": 32, "lr": 3e-3, "ema": 0.9, "validation": 0.1, "label_smoothing": 0.1, "shift": 1,
    "progress": False,
}  # fmt: skip
SIZES = {"image_size": 8, "patch_size": 4, "channels": 1, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 10}


def make_model(seed=0, dropout=0.1, **options):
    return mv.models.ViT(dropout=dropout, drop_path=dropout, seed=seed, **(SIZES | options))


def digits(n=200):
    train, test = mv.data.load("digits")
    return train[:n], test[:60]


class Linear(mv.nn.Module):
    """A linear classifier of 8x8 images: what is known in closed form."""

    def __init__(self, classes=10):
        super().__init__()
        self.head = mv.nn.Linear(64, classes)

    def forward(self, images):
        return self.head(mv.ops.im2col(images, patch_size=8)[:, 0])


if __name__ == "__main__":
    train, test = digits()
    where = {"resume": sys.argv[1]} if len(sys.argv) > 2 else {"run_dir": sys.argv[1]}
    print("begin", flush=True)
    mv.train.fit(make_model(), train, test, checkpoint_every=0, how_to_resume="GO ON LIKE THIS", **OPTIONS, **where)
    print("end", flush=True)
