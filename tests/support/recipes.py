"""What a config makes of a recipe, without its data; a helper of tests."""

from cifar_jax.models import resnet
from cifar_jax.training import optim, schedules, setup

CIFAR = (32, 32, 3)


def create(config):
    return resnet.create(num_classes=10, image_shape=CIFAR, **config.model.to_dict())


def make_schedule(config, steps_per_epoch):
    """Returns the learning rate by step; the optimizer is made, and so checked, too."""
    schedule, momentum_schedule = schedules.make(
        peak=config.optim.learning_rate,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.train.epochs * steps_per_epoch,
        **config.schedule.to_dict(),
    )
    model = create(config)
    if config.optim.lr_multipliers:
        params = resnet.abstract_variables(model, CIFAR)["params"]
        optim.check_multipliers(config.optim.lr_multipliers, params)
    optim.make_optimizer(
        schedule=schedule,
        momentum_schedule=momentum_schedule,
        frozen=setup.frozen_paths(model),
        **config.optim,
    )
    return schedule
