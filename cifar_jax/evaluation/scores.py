"""Scores of logits and labels. Pure functions of NumPy arrays."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from scipy import optimize, special, stats

from cifar_jax.training.results import wilson_interval

NUM_BINS = 15  # of the confidence, as is the custom for CIFAR (Guo et al., 2017)
TOP = 5


class Scores(TypedDict):
    """How well a network labels a set of images."""

    num_examples: int
    num_correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # 95 %, by Wilson's method
    loss: float  # mean cross-entropy, in nats
    top5: float | None  # None with five classes or fewer


class ClassScores(TypedDict):
    """How well a network labels the images of one class; None without such images."""

    name: str
    num_examples: int
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    times_predicted: int  # images of any class that get its label


class Bin(TypedDict):
    """The images whose confidence lies between two bounds."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Returns accuracy with its 95% interval, loss, and top-5 accuracy.

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    num_correct = int((logits.argmax(axis=-1) == labels).sum())
    has_top = logits.shape[-1] > TOP
    return {
        "num_examples": len(labels),
        "num_correct": num_correct,
        "accuracy": num_correct / len(labels),
        "accuracy_interval": wilson_interval(num_correct, len(labels)),
        "loss": cross_entropy(logits, labels),
        "top5": top_k_accuracy(logits, labels, TOP) if has_top else None,
    }


def score_classes(matrix: np.ndarray, label_names: Sequence[str]) -> list[ClassScores]:
    """Returns the scores of each class.

    Args:
      matrix: int [K, K], see `confusion_matrix`.
      label_names: K names.
    """
    counts, correct = matrix.sum(axis=1).tolist(), matrix.diagonal().tolist()
    return [
        ClassScores(
            name=name,
            num_examples=count,
            accuracy=right / count if count else None,
            accuracy_interval=wilson_interval(right, count) if count else None,
            times_predicted=predicted,
        )
        for name, count, right, predicted in zip(
            label_names, counts, correct, matrix.sum(axis=0).tolist(), strict=True
        )
    ]


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns float64 [N, K]: the logarithms of the softmax."""
    return special.log_softmax(logits.astype(np.float64), axis=-1)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of the negative log likelihoods, in nats.

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the share of images whose class is among the k most likely ones.

    Of equal logits the one of the lower class comes first, as argmax has it.
    """
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=-1).mean())


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns int64 [K, K]: how often images of a row's class get a column's label."""
    cells = labels.astype(np.int64) * num_classes + predictions
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy, in bins of equal width.

    Attributes:
      counts: int64 [bins], number of images in each.
      confidence: float64 [bins], mean probability of the label given; 0 where empty.
      accuracy: float64 [bins], share of those labels that are right; 0 where empty.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """Bounds of the bins, float64 [bins + 1]; each bin holds its upper bound."""
        return np.linspace(0, 1, len(self.counts) + 1)

    @property
    def bins(self) -> list[Bin]:
        """The bins as plain data."""
        columns = (
            *(self.edges[:-1], self.edges[1:]),
            *(self.counts, self.confidence, self.accuracy),
        )
        return [
            Bin(low=low, high=high, count=count, confidence=mean, accuracy=accuracy)
            for low, high, count, mean, accuracy in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by the images."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((self.counts * gaps).sum() / self.counts.sum())


def calibration(
    logits: np.ndarray, labels: np.ndarray, num_bins: int = NUM_BINS
) -> Calibration:
    """Returns how far confidence can be trusted (Guo et al., 2017, arXiv:1706.04599).

    Args:
      logits: float [N, K].
      labels: int [N].
      num_bins: Number of bins of the confidence, from 0 to 1.
    """
    confidence = np.exp(log_probabilities(logits).max(axis=-1))
    correct = logits.argmax(axis=-1) == labels
    bins = np.ceil(confidence * num_bins).astype(int) - 1
    bins = np.clip(bins, 0, num_bins - 1)  # rounding can take a probability past 1
    counts = np.bincount(bins, minlength=num_bins)
    filled = np.maximum(counts, 1)
    return Calibration(
        counts=counts,
        confidence=np.bincount(bins, confidence, num_bins) / filled,
        accuracy=np.bincount(bins, correct, num_bins) / filled,
    )


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns what to divide logits by for the least loss (Guo et al., 2017).

    Args:
      logits: float [N, K], of images that the network was not trained on.
      labels: int [N].
    """
    # Convex in the inverse temperature; its logarithm covers all magnitudes.
    minimum = optimize.minimize_scalar(
        lambda log: cross_entropy(logits * np.exp(-log), labels),
        bounds=(-5.0, 5.0),
        method="bounded",
    )
    return float(np.exp(minimum.x))


class McNemar(NamedTuple):
    """Whether two networks differ on the same images (McNemar, 1947)."""

    only_first: int  # images that only the first network labels correctly
    only_second: int
    p_value: float  # of the exact two-sided binomial test


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compares two networks.

    Args:
      first: bool [N], whether the first network is right.
      second: bool [N], whether the second network is right.
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    differ = only_first + only_second
    p_value = stats.binomtest(only_first, differ).pvalue if differ else 1.0
    return McNemar(only_first, only_second, float(p_value))


def confident_errors(logits: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the wrongly labelled images, the most confident first."""
    confidence = log_probabilities(logits).max(axis=-1)
    wrong = np.flatnonzero(logits.argmax(axis=-1) != labels)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
