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
    """What a student learns beside the labels.

    Attributes:
      teach: `(variables, images) -> logits`, the teacher's float32 [B, K] of images
        [B, H, W, C] in 0..255.
      weight: Of the teacher in the loss; the labels have the rest.
      temperature: That the logits of both are divided by.
    """

    teach: Callable[[Any, jax.Array], jax.Array]
    weight: float
    temperature: float

    def mix(self, losses: jax.Array, logits: jax.Array, taught: jax.Array) -> jax.Array:
        """Returns the losses float32 [B] of labels and teacher together.

        The square of the temperature makes up for the smaller gradients of softer
        probabilities (section 2 of the paper).

        Args:
          losses: float32 [B], by the labels.
          logits: float32 [B, K], of the student.
          taught: Likewise, of the teacher.
        """
        soft = optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(logits / self.temperature),
            jax.nn.log_softmax(taught / self.temperature),
        )
        soft *= self.temperature**2
        return (1 - self.weight) * losses + self.weight * soft
