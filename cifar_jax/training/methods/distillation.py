"""Knowledge distillation (Hinton et al., 2015, arXiv:1503.02531).

The student learns from the labels and from the probabilities that a trained network,
the teacher, gives to the same augmented images.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The teacher's part in the loss."""

    # `(variables, images) -> logits`, the teacher's float32 [B, K] for images
    # [B, H, W, C] in 0..255
    teach: Callable[[Any, jax.Array], jax.Array]
    weight: float  # weight of the teacher in the loss; the labels have the rest
    temperature: float  # temperature that the logits of both are divided by

    def mix(
        self, losses: jax.Array, logits: jax.Array, teacher_logits: jax.Array
    ) -> jax.Array:
        """Returns the losses float32 [B] of labels and teacher together.

        The square of the temperature makes up for the smaller gradients of softer
        probabilities (section 2 of the paper).

        Args:
          losses: float32 [B], losses by the labels.
          logits: float32 [B, K] of the student.
          teacher_logits: float32 [B, K] of the teacher.
        """
        soft = optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(logits / self.temperature),
            jax.nn.log_softmax(teacher_logits / self.temperature),
        )
        soft *= self.temperature**2
        return (1 - self.weight) * losses + self.weight * soft
