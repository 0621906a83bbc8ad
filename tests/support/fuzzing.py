"""Damaged files: mutations of good ones, and bytes at random after a good start."""

import os
import resource
import time

import hypothesis
import numpy as np
from hypothesis import strategies

from cifar_jax import UserError
from cifar_jax.data import sources

# What one input may cost. A good one costs a millisecond; the rest is the machine's.
MAX_SECONDS = 5.0
# What all inputs together may add to the peak: an image of 50 million pixels, thrice.
MAX_GROWTH_BYTES = 700e6


@strategies.composite
def damaged(draw, files):
    """Draws one of the files, with up to four places damaged."""
    content = bytearray(draw(strategies.sampled_from(files)))
    for _ in range(draw(strategies.integers(1, 4))):
        place = draw(strategies.integers(0, len(content)))
        kind = draw(
            strategies.sampled_from(("flip", "set", "cut", "end", "put", "mix"))
        )
        if kind == "flip" and place < len(content):
            content[place] ^= 1 << draw(strategies.integers(0, 7))
        elif kind == "set":
            extreme = strategies.sampled_from((b"\x00", b"\xff", b"\x7f\xff\xff\xff"))
            new = draw(extreme)
            content[place : place + len(new)] = new
        elif kind == "cut":
            del content[place : place + draw(strategies.integers(1, 64))]
        elif kind == "end":
            del content[place:]
        elif kind == "put":
            content[place:place] = draw(strategies.binary(max_size=16))
        elif kind == "mix":
            other = draw(strategies.sampled_from(files))
            start = draw(strategies.integers(0, len(other)))
            content[place:] = other[start:]
    return bytes(content)


def inputs(files):
    """Returns a strategy for what a parser of such files may meet."""
    random = strategies.builds(
        lambda file, length, rest: file[:length] + rest,
        strategies.sampled_from(files),
        strategies.integers(0, 16),
        strategies.binary(max_size=200),
    )
    return damaged(files) | damaged(files) | damaged(files) | random


def check(source, *, written, files, count, canary, read=None):
    """Checks that each damaged file is read, or refused in one line, and no more.

    Args:
      source: What is opened.
      written: The file in it that is damaged.
      files: Good contents of that file, or bad ones to start from.
      count: Number of inputs.
      canary: Where a file would appear if a pickle were obeyed.
      read: Reads what is opened; None: as a source of images.

    Returns:
      How many inputs were read, and how many refused.
    """
    outcomes = {"read": 0, "refused": 0}

    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(inputs(files))
    def run(content):
        written.write_bytes(content)
        start = time.process_time()
        outcomes[_outcome(source, read or _read_images)] += 1
        assert time.process_time() - start < MAX_SECONDS

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert growth * 1024 < MAX_GROWTH_BYTES
    assert not os.path.exists(canary)
    return outcomes


def _outcome(source, read):
    try:
        read(source)
    except UserError as error:
        assert "\n" not in str(error)
        assert read is not _read_images or source.name in str(error)
        return "refused"
    return "read"


def _read_images(source):
    table = sources.open_split(str(source))
    rows = table.read(0, len(table))
    assert rows.images.dtype == np.uint8
    assert rows.images.shape == (len(table), *table.image_shape)
    assert (rows.labels is None) == (table.label_names is None)
    if rows.labels is not None:
        assert rows.labels.dtype == np.int32 and len(rows.labels) == len(table)
        assert set(rows.labels.tolist()) <= set(range(len(table.label_names)))
    assert table.ids is None or len(table.ids) == len(table)
