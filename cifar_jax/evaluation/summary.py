"""An evaluation in a few lines, for a person."""

from collections.abc import Mapping
from typing import Any


def lines(record: Mapping[str, Any]) -> str:
    """Returns the figures of evaluation.json as text."""
    found = [f"{record['workdir']}, {record['weights']} weights, on {record['data']}"]
    if record["select_on"] == "test":
        found.append(
            "the epoch was chosen on the test images: on those, accuracy is too high"
        )
    for key, write in _SECTIONS.items():
        if record.get(key):
            found += write(record[key])
    return "\n".join(found)


def _share(scores: Mapping[str, Any]) -> str:
    low, high = scores["accuracy_interval"]
    return f"{scores['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})"


def _scores(scores) -> list[str]:
    top = f", top-5 {scores['top5']:.4f}" if scores["top5"] is not None else ""
    return [
        f"accuracy {_share(scores)}, loss {scores['loss']:.4f}{top}: "
        f"{scores['num_correct']:,} of {scores['num_examples']:,} images"
    ]


def _tta(tta) -> list[str]:
    return [f"with {tta['name']}: {_share(tta)}, loss {tta['loss']:.4f}"]


def _classes(classes) -> list[str]:
    seen = [each for each in classes if each["num_examples"]]
    ranked = sorted(seen, key=lambda each: each["accuracy"])
    worst, best = ranked[0], ranked[-1]
    return [
        f"worst class {worst['name']}: {worst['accuracy']:.4f}, best {best['name']}: "
        f"{best['accuracy']:.4f}"
    ]


def _calibration(calibration) -> list[str]:
    line = f"calibration error (ECE) {calibration['ece']:.4f}"
    if fitted := calibration["temperature"]:
        line += (
            f"; {fitted['ece']:.4f}, loss {fitted['loss']:.4f} at temperature "
            f"{fitted['value']:.3f}, fitted on {fitted['num_validation']:,} "
            "validation images"
        )
    return [line]


def _comparison(other) -> str:
    return (
        f"{other['workdir']}: accuracy {_share(other)}; right alone "
        f"{other['only_other_right']:,}, this run {other['only_this_right']:,}; "
        f"McNemar p = {other['p_value']:.3g}"
    )


def _comparisons(comparisons) -> list[str]:
    return [_comparison(other) for other in comparisons]


def _corruptions(corruptions) -> list[str]:
    error = corruptions["error"]
    means = {name: sum(values) / len(values) for name, values in error.items()}
    worst = max(means, key=means.get)
    line = (
        f"{len(error)} corruptions: mean error {corruptions['mean_error']:.4f}, worst "
        f"{worst} {means[worst]:.4f}"
    )
    if "tta_mean_error" in corruptions:
        line += f"; with test-time augmentation {corruptions['tta_mean_error']:.4f}"
    return [line]


def _efficiency(cost) -> list[str]:
    found = [
        f"{cost['parameters']:,} parameters, {cost['macs_per_image']:,} multiply-adds "
        f"an image, {cost['disk_bytes'] / 2**20:.1f} MB on disk, "
        f"{cost['peak_memory_bytes'] / 2**20:,.0f} MB of memory at most"
    ]
    if "latency_ms" in cost:
        found.append(
            f"{cost['latency_ms']:.2f} ms for a batch of {cost['latency_batch_size']}, "
            f"{cost['images_per_second']:,.0f} images/s in batches of "
            f"{cost['best_batch_size']}, on {cost['num_devices']} x {cost['device']}"
        )
    return found


_SECTIONS = {
    "scores": _scores,
    "tta": _tta,
    "classes": _classes,
    "calibration": _calibration,
    "comparisons": _comparisons,
    "corruptions": _corruptions,
    "efficiency": _efficiency,
}
