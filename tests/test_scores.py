"""Scores against scikit-learn, closed forms and plain loops."""

import math

import numpy as np
import pytest
from sklearn import metrics

from cifar_jax.evaluation import scores


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    labels = random.integers(0, 7, 501)
    logits = random.normal(size=(501, 7)).astype(np.float32)
    logits[np.arange(501), labels] += 1
    return logits, labels


def probabilities(logits):
    exponentials = np.exp(np.float64(logits))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_scores_are_those_of_scikit_learn(data):
    logits, labels = data
    assert scores.cross_entropy(logits, labels) == pytest.approx(
        metrics.log_loss(labels, probabilities(logits))
    )
    found, expected = scores.score(logits, labels), metrics.top_k_accuracy_score
    for key, k in (("accuracy", 1), ("top5", 5)):
        assert found[key] == pytest.approx(expected(labels, logits, k=k))


def test_equal_logits_fill_no_more_than_k_places():
    logits, labels = np.zeros((10, 10)), np.arange(10)
    assert scores.score(logits, labels)["accuracy"] == 0.1
    assert scores.score(logits, labels)["top5"] == 0.5


def test_huge_logits_have_a_finite_loss():
    logits, labels = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.array([0, 0])
    assert scores.cross_entropy(logits, labels) == pytest.approx(5e3)


@pytest.mark.parametrize("correct, total", [(0, 10), (10, 10), (7, 10), (9481, 10000)])
def test_wilsons_bounds_solve_their_equation(correct, total):
    share = correct / total
    for bound in scores.wilson_interval(correct, total):
        # The bound is the truth from which the share lies z standard errors away.
        deviation = math.sqrt(bound * (1 - bound) / total)
        error = abs(share - bound) - 1.959963984540054 * deviation
        assert error == pytest.approx(0, abs=1e-7)
        assert 0 <= bound <= 1
    low, high = scores.wilson_interval(correct, total)
    assert low < high and low - 1e-9 <= share <= high + 1e-9


def test_calibration_is_that_of_a_plain_loop(data):
    logits, labels = data
    found = scores.calibration(logits, labels)
    error = 0.0
    shares = probabilities(logits)
    for number in range(15):
        inside = [
            (max(row), row.argmax() == label)
            for row, label in zip(shares, labels, strict=True)
            if number / 15 < max(row) <= (number + 1) / 15
        ]
        assert found[number]["count"] == len(inside)
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(hit for _, hit in inside) / len(inside)
            assert found[number]["confidence"] == pytest.approx(confidence)
            assert found[number]["accuracy"] == pytest.approx(accuracy)
            error += len(inside) / len(labels) * abs(confidence - accuracy)
    assert scores.calibration_error(found) == pytest.approx(error)
    assert sum(b["count"] for b in found) == len(labels)


def test_bounds_of_the_bins():
    logits = np.array([[1e3, 0.0], [1e3, 0.0]])
    found = scores.calibration(logits, np.array([0, 1]))
    assert found[-1]["count"] == 2
    assert scores.calibration_error(found) == pytest.approx(0.5)
    found = scores.calibration(np.zeros((3, 5)), np.array([0, 0, 1]))
    assert found[2]["count"] == 3  # a bin holds its upper bound


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_that_was_put_in_comes_out(temperature):
    random = np.random.default_rng(1)
    logits = 2 * random.normal(size=(40_000, 5))
    chances = probabilities(logits).cumsum(axis=1)
    labels = (random.random((40_000, 1)) > chances).sum(axis=1).clip(max=4)
    found = scores.fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.05)


def test_mcnemar_is_the_exact_binomial_test():
    first = np.array([True] * 10 + [False] * 3 + [True] * 20 + [False] * 5)
    second = np.array([False] * 10 + [True] * 3 + [True] * 20 + [False] * 5)
    found = scores.mcnemar(first, second)
    tail = sum(math.comb(13, k) for k in range(4)) / 2**13
    assert (found.only_first, found.only_second) == (10, 3)
    assert found.p_value == pytest.approx(2 * tail)
    assert scores.mcnemar(first, first).p_value == 1.0
