"""A trace of a few steps, to see where the time goes."""

import os

import jax

from cifar_jax.training import distributed

NUM_STEPS = 3


class Profiler:
    """Traces some calls of the devices, the first ones that need no warming up.

    Args:
      folder: For the trace; `tensorboard --logdir` and xprof read it.
      steps_per_call: Steps in one call.
    """

    def __init__(self, folder: os.PathLike, steps_per_call: int):
        self._folder = os.fspath(folder)
        self._calls = 0
        self._last = 1 + -(-NUM_STEPS // steps_per_call)

    def before_call(self, pending: jax.Array) -> None:
        """Starts or stops the trace where that is due.

        Args:
          pending: What the devices work on; waited for at both ends of the trace.
        """
        if self._calls == 1:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(self._folder)
        elif self._calls == self._last:
            jax.block_until_ready(pending)
            jax.profiler.stop_trace()
            distributed.say(f"a trace of {self._last - 1} calls is in {self._folder}")
        self._calls += 1
