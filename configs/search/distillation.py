"""What a teacher is worth, with its cost counted.

The base of components.py. Its teacher is a run of the same network, and costs as much
as a run; so the student is compared with one that has twice the epochs, too. The
teacher comes first, into the folder that ITEMS name:

python -m cifar_jax.main --config FILE:teacher --workdir runs/teacher
python -m cifar_jax.search --config FILE

where FILE is configs/search/distillation.py.
Measured (results/studies/distillation): twice the epochs give 0.049 of validation
accuracy; of a teacher no effect is shown.
small: 500 images and one seed; its teacher is of the variant small_teacher.
"""

from . import components

TEACHER = "runs/teacher"
# What changes of the base, by name.
ITEMS = {
    "base": {},
    "base, twice the epochs": {"train.epochs": 8},
    "a teacher": {"distill.teacher": TEACHER},
    "a teacher, half the weight": {
        "distill.teacher": TEACHER,
        "distill.weight": 0.5,
    },
}


# By variant: that of components.py, and whether it is the teacher's run.
VARIANTS = {
    "full": ("full", False),
    "small": ("small", False),
    "teacher": ("full", True),
    "small_teacher": ("small", True),
}


def get_config(variant="full"):
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; use {', '.join(VARIANTS)}")
    size, teaches = VARIANTS[variant]
    config = components.get_config(size)
    if teaches:
        config.base.seed = 100  # not that of a student
        return config.base
    config.study.space = tuple(
        dict(name=name, change=change) for name, change in ITEMS.items()
    )
    return config
