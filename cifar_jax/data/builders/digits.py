"""Handwritten digits as a TFDS data set: the embedded default, without a download."""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_jax.data.builders._base import LabelledImages, LabelledSplits


class Digits(LabelledImages, skip_registration=True):
    """Handwritten digits (Alpaydin & Kaynak, 1998) of scikit-learn, as 32x32 RGB.

    1,437 images for training and 360 for the test, stratified.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    image_shape = (32, 32, 3)
    labels = {"label": tuple("0123456789")}

    def read(self) -> LabelledSplits:
        """Enlarges the 8x8 digits to 32x32 (bicubic) and splits them 80:20."""
        from sklearn import datasets, model_selection  # slow, and used only here

        pixels, labels = datasets.load_digits(return_X_y=True)
        images = np.empty((len(pixels), *self.image_shape), np.uint8)
        for k, row in enumerate(pixels):  # float [64] from 0 to 16
            gray = np.round(row.reshape(8, 8) * (255 / 16)).astype(np.uint8)
            gray = Image.fromarray(gray)
            gray = gray.resize((32, 32), Image.Resampling.BICUBIC)
            images[k] = np.asarray(gray.convert("RGB"))
        labels = np.asarray(labels, np.int32)
        train, test = model_selection.train_test_split(
            np.arange(len(images)),
            test_size=0.2,
            stratify=labels,
            random_state=0,
        )
        return {
            "train": (images[train], {"label": labels[train]}),
            "test": (images[test], {"label": labels[test]}),
        }
