"""What a person sees of a run while it trains."""

import io
import re

import pytest
import rich.console

from cifar_jax.training.progress import Progress


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (60, ["epoch 12/100", "loss"], ["lr ", "step "]),
        (45, ["epoch 12/100"], ["lr ", "step ", "loss", "accuracy"]),
        (160, ["step 4,321/36,000", "loss", "accuracy", "lr 5.00e-02"], []),
    ],
)
def test_speed_and_time_left_stay_in_a_narrow_terminal(width, shown, hidden):
    file = io.StringIO()
    console = rich.console.Console(width=width, force_terminal=True, file=file)
    progress = Progress(
        num_epochs=100, total_steps=36_000, batch_size=125, console=console
    )
    with progress.live:
        progress.count(100, 1.0)
        progress.show(12, 4_321, {"loss": 1.234, "accuracy": 0.5}, 0.05)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", file.getvalue())
    for part in ("12,500 images/s", "5:17 left", *shown):
        assert part in text
    for part in hidden:
        assert part not in text
