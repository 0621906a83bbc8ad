"""Scores of logits and labels. Pure functions of NumPy arrays."""

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
    confidence: float  # mean probability of the label given; 0 without images
    accuracy: float  # share of those labels that are right; 0 without images


def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Returns accuracy with its 95% interval, loss, and top-5 accuracy.

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    num_correct = int((logits.argmax(axis=-1) == labels).sum())
    # Of equal logits the one of the lower class comes first, as argmax has it.
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :TOP]
    in_top = float((best == labels[:, None]).any(axis=-1).mean())
    return {
        "num_examples": len(labels),
        "num_correct": num_correct,
        "accuracy": num_correct / len(labels),
        "accuracy_interval": wilson_interval(num_correct, len(labels)),
        "loss": cross_entropy(logits, labels),
        "top5": in_top if logits.shape[-1] > TOP else None,
    }


def score_classes(matrix: np.ndarray, label_names: Sequence[str]) -> list[ClassScores]:
    """Returns the scores of each class.

    Args:
      matrix: int [K, K], from true classes (rows) to labels given (columns).
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


def calibration(logits: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Returns how far confidence can be trusted (Guo et al., 2017, arXiv:1706.04599).

    Args:
      logits: float [N, K].
      labels: int [N].
    """
    confidence = np.exp(log_probabilities(logits).max(axis=-1))
    correct = logits.argmax(axis=-1) == labels
    places = np.ceil(confidence * NUM_BINS).astype(int) - 1  # with its upper bound
    places = np.clip(places, 0, NUM_BINS - 1)  # rounding can take a probability past 1
    edges, counts = np.linspace(0, 1, NUM_BINS + 1), np.bincount(places, None, NUM_BINS)
    means = [
        np.bincount(places, values, NUM_BINS) / np.maximum(counts, 1)
        for values in (confidence, correct)
    ]
    columns = (column.tolist() for column in (edges[:-1], edges[1:], counts, *means))
    return [
        Bin(low=low, high=high, count=count, confidence=mean, accuracy=accuracy)
        for low, high, count, mean, accuracy in zip(*columns, strict=True)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Returns the expected calibration error: the mean gap, weighted by the images."""
    gaps = [b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins]
    return float(np.sum(gaps) / sum(b["count"] for b in bins))


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
