"""What the small variants of studies share: minutes on two cores."""


def small(config, *, narrower=1, limit=None):
    """Shrinks a study: 2,500 images of CIFAR-10, two epochs, maps of half the side.

    Args:
      config: Config of the study; it is changed.
      narrower: Factor that the widths of the base are divided by.
      limit: Limit of the parameters; None lifts the budget.
    """
    base = config.base
    base.data.train_split = "train[:2500]"
    base.data.test_split = "test[:1000]"
    base.data.validation = 500
    base.model.stem_stride = 2
    base.model.widths = tuple(max(1, width // narrower) for width in base.model.widths)
    base.budget.limit = limit
    base.train.epochs = 2
    base.train.batch_size = min(64, base.train.batch_size)
    config.study.reported = ()  # of other networks
    config.study.threads = 1  # so that the results do not depend on the workers
    return config


def is_small(variant):
    """Returns whether --config FILE:VARIANT asks for the small variant.

    Raises:
      ValueError: If the variant is unknown.
    """
    if variant not in ("full", "small"):
        raise ValueError(f"variant {variant!r} is unknown; use full or small")
    return variant == "small"
