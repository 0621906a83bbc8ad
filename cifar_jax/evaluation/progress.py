"""A progress bar over images."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, and nothing elsewhere.

    Args:
      description: Of what is done.
      total: Images in all.

    Yields:
      What to call with the number of images that have been done since.
    """
    console = rich.console.Console(stderr=True)
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=20),
        rich.progress.TextColumn("{task.completed:,}/{task.total:,} images"),
        rich.progress.TimeRemainingColumn(),
    )
    options = dict(console=console, transient=True, disable=not console.is_terminal)
    with rich.progress.Progress(*columns, **options) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
