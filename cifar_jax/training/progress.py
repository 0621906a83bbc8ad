"""What a person sees of a run: its progress, and a trace of a few steps."""

import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import rich.console
import rich.progress

from cifar_jax.training import distributed

# Without a terminal, a status line is printed this often.
SECONDS_BETWEEN_LINES = 30.0
_WIDE = 80  # columns of a terminal that has room for a bar
# Steps in a trace.
NUM_PROFILED_STEPS = 3


def clock_time(seconds: float) -> str:
    """Returns seconds as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """A run's live line on a terminal; elsewhere a status line now and then.

    Attributes:
      live: Context in which the live line is shown.

    Args:
      num_epochs: Epochs in the run.
      total_steps: Steps in the run.
      batch_size: Images in a step.
      console: Console to print to; None: standard output of process 0.
    """

    def __init__(
        self,
        *,
        num_epochs: int,
        total_steps: int,
        batch_size: int,
        console: rich.console.Console | None = None,
    ):
        self._console = console or rich.console.Console(
            highlight=False, quiet=not distributed.is_primary()
        )
        wide = self._console.width >= _WIDE
        self.live = rich.progress.Progress(
            *([rich.progress.BarColumn(bar_width=20)] if wide else []),
            rich.progress.TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self.live.add_task("", total=total_steps)
        self._num_epochs, self._total_steps = num_epochs, total_steps
        self._batch_size = batch_size
        # In this process, compilation excluded.
        self._steps, self._seconds = 0, 0.0
        self._last_line = time.perf_counter()

    def log(self, text: str) -> None:
        """Prints a line above the live one."""
        self._console.print(text, markup=False, soft_wrap=True)

    def count(self, num_steps: int, seconds: float) -> None:
        """Adds steps, and the time that they took, to the speed's average."""
        self._steps += num_steps
        self._seconds += seconds

    @property
    def images_per_second(self) -> float:
        """Images trained per second in this process, compilation excluded."""
        return self._steps * self._batch_size / self._seconds if self._seconds else 0.0

    def show(
        self, epoch: int, step: int, means: Mapping[str, float], learning_rate: float
    ) -> None:
        """Shows where training is.

        Args:
          epoch: Current epoch, from 1.
          step: Steps done.
          means: `loss` and `accuracy` of the epoch so far.
          learning_rate: Learning rate of the last step.
        """
        parts = (  # what matters least comes last, where a narrow terminal cuts it off
            f"epoch {epoch}/{self._num_epochs}",
            self._speed(step),
            f"loss {means['loss']:.4f}",
            f"accuracy {means['accuracy']:.4f}",
            f"step {step:,}/{self._total_steps:,}",
            f"lr {learning_rate:.2e}",
        )
        text = "  ".join(filter(None, parts))
        self.live.update(self._task, completed=step, description=text)
        now = time.perf_counter()
        is_due = now - self._last_line > SECONDS_BETWEEN_LINES
        if is_due and not self._console.is_terminal:
            self.log(text)
            self._last_line = now

    def end_epoch(
        self,
        epoch: int,
        step: int,
        train: Mapping[str, float],
        val: Mapping[str, float] | None,
        is_best: bool,
    ) -> None:
        """Prints the line of an epoch, and whether it is the best one so far.

        Args:
          epoch: Epochs done.
          step: Steps done.
          train: `loss` and `accuracy` of training.
          val: `loss` and `accuracy` of the validation, or None without one.
          is_best: Whether this is the best epoch so far.
        """
        columns = [f"epoch {epoch:>{len(str(self._num_epochs))}}/{self._num_epochs}"]
        for name, means in (("train", train), ("val", val)):
            if means:
                loss, accuracy = means["loss"], means["accuracy"]
                columns.append(f"{name} loss {loss:.4f} accuracy {accuracy:.4f}")
        columns.append(self._speed(step))
        self.log("  ".join(columns) + ("  best so far" if is_best else ""))
        self._last_line = time.perf_counter()

    def _speed(self, step: int) -> str:
        """Returns images per second and the time left, once they are known."""
        speed = self.images_per_second
        if not speed:
            return ""
        left = (self._total_steps - step) * self._batch_size / speed
        return f"{speed:,.0f} images/s  {clock_time(left)} left"


class Profiler:
    """Traces the first calls of the devices that need no warming up.

    Args:
      folder: Folder for the trace; `tensorboard --logdir` and xprof read it.
      steps_per_call: Steps in one call.
    """

    def __init__(self, folder: os.PathLike, steps_per_call: int):
        self._folder = os.fspath(folder)
        self._num_calls = 0
        self._last = 1 + -(-NUM_PROFILED_STEPS // steps_per_call)

    def before_call(self, pending: Any) -> None:
        """Starts or stops the trace when that is due.

        Args:
          pending: Arrays that the devices work on; both ends of the trace wait for
            them.
        """
        if self._num_calls == 1:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(self._folder)
        elif self._num_calls == self._last:
            jax.block_until_ready(pending)
            self.close()
        self._num_calls += 1

    def close(self) -> None:
        """Ends a trace that is under way, or says that a short run has none."""
        if 1 < self._num_calls <= self._last:
            jax.profiler.stop_trace()
            number = self._num_calls - 1
            distributed.log(f"a trace of {number} calls is in {self._folder}")
        elif self._num_calls < 2:
            distributed.log(
                "no trace, as the first call is left out and there was no other; use "
                "a smaller train.steps_per_dispatch"
            )
