"""Handwritten digits as a TFDS data set: the embedded default, without a download."""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets, model_selection

from cifar_jax.data.builders._base import LabelledImages


class Digits(LabelledImages, skip_registration=True):
    """Handwritten digits (Alpaydin & Kaynak, 1998) of scikit-learn, as 32x32 RGB.

    1,437 images for training and 360 for the test, stratified.
    """

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")
    spec = None
    image_shape = (32, 32, 3)
    labels = {"label": tuple("0123456789")}

    def read(self, source):
        """Enlarges the 8x8 digits to 32x32 (bicubic) and splits them 80:20."""
        del source
        digits = datasets.load_digits()
        images = np.stack([_enlarge(image) for image in digits.images])
        train, test = model_selection.train_test_split(
            np.arange(len(images)),
            test_size=0.2,
            stratify=digits.target,
            random_state=0,
        )
        labels = digits.target.astype(np.int32)
        return {
            "train": (images[train], {"label": labels[train]}),
            "test": (images[test], {"label": labels[test]}),
        }


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Float [8, 8] in 0..16 to uint8 [32, 32, 3]."""
    gray = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    return np.asarray(gray.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
