"""Run directories written by hand: what the training loop and evaluate would write."""

import json

import numpy as np
from sklearn.metrics import confusion_matrix

from cifar_jax import config as default
from cifar_jax._files import OutputFolder
from cifar_jax.config import config_to_dict
from cifar_jax.data.dataset import from_arrays
from cifar_jax.evaluation import evaluate

NAMES = ("cat", "dog", "frog")
SIZE = 24  # images that are evaluated


def make_config(seed=0, epochs=3, **settings):
    """Returns a config as plain data; settings are keys such as optim__momentum."""
    config = default.get_config()
    config.model.widths, config.model.stage_sizes = (4, 8), (1, 1)
    config.seed, config.train.epochs = seed, epochs
    for key, value in settings.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config_to_dict(config)


def rows(num_epochs, best=0.75, split="val"):
    """Yields what metrics.jsonl holds, with the best validation in the last epoch."""
    for epoch in range(1, num_epochs + 1):
        accuracy = best - 0.1 * (num_epochs - epoch)
        row = {"step": 10 * epoch, "epoch": epoch}
        train = {"loss": 2.0 / epoch, "accuracy": accuracy + 0.05}
        rates = {"learning_rate": 0.1 / epoch, "images_per_second": 100.0}
        yield {**row, "split": "train", **train, **rates}
        yield {**row, "split": split, "loss": 1.5 / epoch, "accuracy": accuracy}


def make_result(config, test=0.7, val=0.75):
    """Returns what result.json holds."""
    return {
        "config": config,
        "dataset": "made",
        "num_parameters": 2_000 * config["model"]["widths"][0],
        "flops_per_image": 3_000_000,
        "val": val and {"accuracy": val, "loss": 0.5, "num_examples": 100},
        "test": test and {"accuracy": test, "loss": 0.6, "num_examples": 200},
        "best_epoch": config["train"]["epochs"],
        "epochs": config["train"]["epochs"],
        "steps": 30,
        "seed": config["seed"],
        "seconds": {"total": 70.0, "compile": 5.0, "train": 60.0, "evaluate": 5.0},
        "images_per_second": 100.0,
        "device": "cpu (made)",
        "num_devices": 1,
        "num_processes": 1,
        "versions": {"jax": "0.10.2"},
    }


def make_run(
    folder, *, test=0.7, val=0.75, names=NAMES, done=None, split="val", **settings
):
    """Writes a run directory and returns it; with `done` epochs it has not ended."""
    folder.mkdir(parents=True)
    config = make_config(**settings)
    dataset = {"name": "made", "image_shape": [8, 8, 3], "label_names": list(names)}
    dataset |= {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
    lines = rows(config["train"]["epochs"] if done is None else done, val or 0.5, split)
    files = {"config.json": config, "dataset.json": dataset}
    if done is None:
        files["result.json"] = make_result(config, test, val)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    lines = list(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    for line in lines[-1:]:  # of the best epoch
        (folder / "best" / str(line["step"])).mkdir(parents=True)
    return folder


def make_evaluation(run, *, names=NAMES, split="test", epoch=3, latency=None):
    """Writes the evaluation of a made-up network, by what evaluate itself uses."""
    random = np.random.default_rng(3)
    labels = random.integers(0, len(names), SIZE).astype(np.int32)
    logits = random.normal(size=(SIZE, len(names))).astype(np.float32)
    logits[np.arange(SIZE), labels] += 1.5
    images = random.integers(0, 256, (SIZE, 8, 8, 3), np.uint8)
    output = OutputFolder(run / "evaluation")
    dataset = from_arrays("made", images, labels)
    matrix = confusion_matrix(labels, logits.argmax(axis=-1), labels=range(len(names)))
    speed = {
        "latency_ms": latency,
        "latency_batch_size": 1,
        "images_per_second": 500.0,
        "best_batch_size": 16,
    }
    sizes = ("parameters", "macs_per_image", "weights_bytes", "disk_bytes")
    record = {
        "workdir": str(run),
        "select_on": "val",
        "weights": "best",
        "epoch": epoch,
        "data": "made:test",
        "split": split,
        **evaluate.report(logits, labels, dataset, names, output),
        "efficiency": {
            **dict.fromkeys((*sizes, "peak_memory_bytes"), 1_000),
            **{"device": "cpu (made)", "num_devices": 1, "num_processes": 1},
            **{"versions": {}},
            **(speed if latency else {}),
        },
    }
    output.json("evaluation.json", {**record, "files": list(output.files)})
    return matrix


def change(path, **values):
    """Changes values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def make_record(tests):
    """Returns what scripts/records.py would write."""
    row = {
        "best_epoch": 3,
        "epochs": 3,
        "images_per_second": 10.0,
        "clocks": {"train": 5.0, "train_and_evaluate": 6.0, "compile": 1.0, "run": 8.0},
    }
    return {
        "kind": "record",
        "recipe": "recipe",
        "config": make_config(),
        "num_parameters": 9,
        "flops_per_image": 99,
        "device": "gpu",
        "num_devices": 1,
        "data": {"name": "made", "note": "3 images differ"},
        "clocks": {
            "train": {"mean": 5.04},
            "train_and_evaluate": {"mean": 6.1},
            "cold_process": {"seconds": 70.25, "seed": 0},
        },
        "images_per_second": {"mean": 12_345.6},
        "flops": {"mean": 2.5e14},
        "share_of_peak": {"mean": 0.3456},
        "seeds": [
            {**row, "seed": seed, "val": test, "test": test, "test_tta": None}
            for seed, test in enumerate(tests)
        ],
    }
