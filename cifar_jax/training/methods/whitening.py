"""Filters that whiten the patches of images: a stem that needs no training."""

import numpy as np

# Directions of little variance are mostly noise; this keeps them from being blown up.
EPSILON = 5e-4


def filters(images: np.ndarray, *, kernel_size: int, width: int) -> np.ndarray:
    """Returns convolution filters whose outputs are uncorrelated, of variance one.

    They are the eigenvectors of the patches' second moments, over the roots of the
    eigenvalues, each with either sign, so that a ReLU loses nothing (Page, 2019, "How
    to train your ResNet"; Jordan, 2024, arXiv:2404.00498).

    Args:
      images: float32 [N, H, W, C], normalised.
      kernel_size: Height and width of the filters.
      width: Number of filters, even; the directions of most variance are taken.

    Returns:
      float32 [kernel_size, kernel_size, C, width].
    """
    size = (kernel_size, kernel_size)
    patches = np.lib.stride_tricks.sliding_window_view(images, size, axis=(1, 2))
    patches = patches[:, ::2, ::2].transpose(0, 1, 2, 4, 5, 3)  # half the pixels do
    channels = images.shape[-1]
    patches = patches.reshape(-1, kernel_size**2 * channels)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    most = np.argsort(variances)[::-1][: width // 2]
    scaled = directions[:, most] / np.sqrt(variances[most] + EPSILON)
    kernel = np.concatenate([scaled, -scaled], axis=1).astype(np.float32)
    return kernel.reshape(*size, channels, width)
