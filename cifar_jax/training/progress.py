"""What a person sees while a run works."""

import time

import rich.console
import rich.progress


def clock_time(seconds: float) -> str:
    """Returns seconds as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Display(rich.progress.Progress):
    """Where runs show their lines: live on a terminal.

    Args:
      quiet: Print nothing.
      console: Where to print; None: standard output.
    """

    def __init__(self, *, quiet=False, console=None):
        console = console or rich.console.Console(highlight=False, quiet=quiet)
        super().__init__(
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )


class Progress:
    """A run's live line on a terminal; elsewhere a plain line now and then.

    Args:
      num_epochs: Epochs of the run.
      total_steps: Steps of the run.
      batch_size: Images in a step.
      name: What its lines begin with.
      display: That several runs share; None: one of its own.
      quiet: Print nothing there.
    """

    # A log that nobody watches needs a sign of life, not a film.
    SECONDS_BETWEEN_LINES = 30.0

    def __init__(
        self,
        *,
        num_epochs: int,
        total_steps: int,
        batch_size: int,
        name: str = "",
        display: Display | None = None,
        quiet: bool = False,
    ):
        self._display = display or Display(quiet=quiet)
        self._console = self._display.console
        self._owns_display = display is None
        self._name = f"{name}  " if name else ""
        self._num_epochs = num_epochs
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._measured = (0, 0.0)  # steps, seconds: of this process, compile excluded
        self._last_line = time.perf_counter()
        self._task = self._display.add_task(name, total=total_steps)

    def __enter__(self):
        if self._owns_display:
            self._display.start()
        return self

    def __exit__(self, *error):
        self._display.remove_task(self._task)
        if self._owns_display:
            self._display.stop()

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        self._console.print(f"{self._name}{text}", markup=False, soft_wrap=True)

    def count(self, num_steps: int, seconds: float) -> None:
        """Takes in the time that steps took."""
        steps, total = self._measured
        self._measured = steps + num_steps, total + seconds

    @property
    def images_per_second(self) -> float:
        """Images trained in a second, of this process, without compiling."""
        steps, seconds = self._measured
        return steps * self._batch_size / seconds if seconds else 0.0

    def show(self, epoch: int, step: int, means: dict, learning_rate: float) -> None:
        """Shows where training is.

        Args:
          epoch: The one that runs, from 1.
          step: Steps done.
          means: `loss` and `accuracy` of the epoch so far.
          learning_rate: Of the last step.
        """
        text = (
            f"epoch {epoch}/{self._num_epochs}  step {step:,}/{self._total_steps:,}  "
            f"loss {means['loss']:.4f}  accuracy {means['accuracy']:.4f}  "
            f"lr {learning_rate:.2e}  {self._speed(step)}"
        )
        self._display.update(
            self._task, completed=step, description=f"{self._name}{text}"
        )
        now = time.perf_counter()
        since = now - self._last_line
        if not self._console.is_terminal and since > self.SECONDS_BETWEEN_LINES:
            self.say(text)
            self._last_line = now

    def end_epoch(self, epoch: int, step: int, train: dict, val: dict | None, best):
        """Prints the line of an epoch.

        Args:
          epoch: Epochs done.
          step: Steps done.
          train: `loss` and `accuracy`.
          val: Likewise, or None where there was no validation.
          best: Whether this is the best epoch so far.
        """
        columns = [f"epoch {epoch:>{len(str(self._num_epochs))}}/{self._num_epochs}"]
        for name, means in (("train", train), ("val", val)):
            if means:
                columns.append(
                    f"{name} loss {means['loss']:.4f} accuracy {means['accuracy']:.4f}"
                )
        mark = " *" if best else ""
        self.say("  ".join([*columns, self._speed(step)]) + mark)
        self._last_line = time.perf_counter()

    def _speed(self, step: int) -> str:
        speed = self.images_per_second
        if not speed:
            return ""
        left = (self._total_steps - step) * self._batch_size / speed
        return f"{speed:,.0f} images/s  {clock_time(left)} left"
