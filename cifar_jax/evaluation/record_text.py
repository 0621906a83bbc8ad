"""A record in a few lines, for a person."""

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "val": "validation accuracy",
    "val_tta": "validation accuracy with TTA",
    "test": "test accuracy",
    "test_tta": "test accuracy with TTA",
}
_CLOCKS = {"train": "training", "train_and_evaluate": "with evaluation"}


def lines(record: Mapping[str, Any]) -> str:
    """Returns what a record says, and what it lacks."""
    if not record["seeds"]:
        return f"{record['recipe']}: no seed is done; the same command goes on"
    found = [
        f"{record['recipe']}: {record['num_parameters']:,} parameters on "
        f"{record['num_devices']} x {record['device']}"
    ]
    for key, name in _NAMES.items():
        if record[key]:
            found.append(f"{name} {_spread(record[key], '.4f')}")
    for key, name in _CLOCKS.items():
        found.append(f"{name} {_spread(record['clocks'][key], '.1f')} s")
    if cold := record["clocks"]["cold_process"]:
        found.append(f"cold process {cold['seconds']:.1f} s (seed {cold['seed']})")
    found.append(
        f"{_spread(record['images_per_second'], ',.0f')} images/s, "
        f"{record['flops']['mean'] / 1e12:.3g} TFLOP/s: "
        f"{record['share_of_peak']['mean']:.1%} of the "
        f"{record['peak']['flops'] / 1e12:.3g} of a matrix product"
    )
    found.append(f"data: {record['data']['name']}, {record['data']['note']}")
    if record["missing_seeds"]:
        seeds = ", ".join(map(str, record["missing_seeds"]))
        found.append(f"seeds {seeds} are left; the same command goes on")
    else:
        found.append("all seeds are done")
    return "\n".join(found)


def _spread(values: Mapping[str, Any], form: str) -> str:
    text = f"{values['mean']:{form}}"
    if values["std"] is not None:
        text += f" ± {values['std']:{form}}"
    return f"{text} (n = {values['n']})"
