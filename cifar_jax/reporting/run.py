"""A run as a report sees it: finished, still training, or only a record."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_jax.reporting.checked import look_up
from cifar_jax.reporting.evaluated import Evaluation
from cifar_jax.training.methods import pruning
from cifar_jax.training.results import RANKS

# What runs did whose config has no such key yet.
_EARLIER = {
    "evaluate.best_by": "accuracy",
    "evaluate.select_on": "val",
    "evaluate.test": True,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      path: Its directory, or the file that its result was published in.
      name: That no other run of the report has.
      config: As plain data.
      dataset: What dataset.json holds; None for a record.
      rows: Of metrics.jsonl, those that are whole.
      result: What result.json holds, or None before its end.
      evaluation: What `cifar_jax.evaluate` found, or None.
      updated: When it last wrote metrics, in seconds since 1970, or None.
      imported: Whether its weights were trained elsewhere.
    """

    path: pathlib.Path
    name: str
    config: Mapping[str, Any]
    dataset: Mapping[str, Any] | None
    rows: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    evaluation: Evaluation | None
    updated: float | None
    imported: bool = False

    def setting(self, key: str) -> Any:
        """Returns a value of the config, such as that of evaluate.best_by."""
        found = look_up(self.config, key)
        return _EARLIER.get(key) if found is None else found

    @property
    def seed(self) -> int:
        """Of the weights, the order of the images and the augmentation."""
        return self.config["seed"]

    @property
    def is_record(self) -> bool:
        """Tells whether this is a result only, without its run directory."""
        return self.dataset is None

    @property
    def ended(self) -> bool:
        """Tells whether its weights are final."""
        return self.result is not None or self.imported

    @property
    def may_test(self) -> bool:
        """Tells whether its test images may be looked at: a study keeps them."""
        return self.ended and self.setting("evaluate.test")

    @property
    def chose_on_test(self) -> bool:
        """Tells whether the epoch was chosen on test images."""
        return self.setting("evaluate.select_on") == "test"

    @property
    def choice_split(self) -> str:
        """The split that epochs are compared on."""
        return "test" if self.chose_on_test else "val"

    def values(self, split: str, name: str) -> dict[int, float]:
        """Returns a metric by epoch."""
        return {
            row["epoch"]: row[name]
            for row in self.rows
            if row["split"] == split and isinstance(row.get(name), int | float)
        }

    @property
    def epochs_done(self) -> int:
        """Epochs that are closed."""
        if self.result:
            return self.result["epochs"]
        return max((row["epoch"] for row in self.rows), default=0)

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The row of the best epoch so far, as the run itself ranks them, or None."""
        first = self._ships_from()
        rows = [
            row
            for row in self.rows
            if row["split"] == self.choice_split and row["step"] >= first
        ]
        rank = RANKS.get(self.setting("evaluate.best_by"))
        if not rank or not all({"accuracy", "loss"} <= set(row) for row in rows):
            return None
        return max(rows, key=rank, default=None)

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights are in best/."""
        if self.result:
            return self.result["best_epoch"]
        if self.imported:
            return 0
        return self.best and self.best["epoch"]

    @property
    def validation(self) -> float | None:
        """Validation accuracy of the best epoch (so far), if it has validated."""
        if self.result:
            return self._accuracy("val")
        return self.best["accuracy"] if self.best and not self.chose_on_test else None

    @property
    def latency(self) -> float | None:
        """Milliseconds for one image on each device, if they were measured."""
        return self.evaluation and self.evaluation.efficiency.get("latency_ms")

    @property
    def test(self) -> float | None:
        """Test accuracy of a run that has ended, if it was to look at it."""
        return self._accuracy("test")

    @property
    def test_tta(self) -> float | None:
        """The same with test-time augmentation, if the config asks for it."""
        return self._accuracy("test_tta")

    @property
    def num_nonzero(self) -> int | None:
        """Parameters that are not zero, if some were pruned."""
        result = self.result or {}
        return result["num_nonzero"] if result.get("sparsity") else None

    def _accuracy(self, name: str) -> float | None:
        scores = (self.result or {}).get(name)
        return scores and scores["accuracy"]

    def _ships_from(self) -> int:
        """Returns the first step after which the weights may be the best."""
        prune = self.config.get("prune")
        if not prune or not self.rows:
            return 0
        steps_per_epoch = self.rows[0]["step"] // self.rows[0]["epoch"]
        plan = pruning.make_plan(
            *(prune[key] for key in ("sparsity", "start", "stop")),
            steps_per_epoch=steps_per_epoch,
            total_steps=steps_per_epoch * self.config["train"]["epochs"],
        )
        return plan.stop if plan else 0
