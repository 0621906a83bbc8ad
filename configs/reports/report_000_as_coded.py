"""Report 000 as its code trains it: AutoAugment in the place of rotation.

Parameters: 4,964,266.
Claims, and a correct count of them: as in report_000.py; they come from this recipe.
Measured: not yet.

Not yet as coded: PyTorch's OneCycleLR also rises along a cosine, and swings Adam's
beta1 from 0.95 to 0.85 and back; here the warm-up is linear and beta1 stays at 0.9. The
code selects its checkpoint on the test set; here the last state is scored.
Command: python -m cifar_jax.main --config configs/reports/report_000_as_coded.py
"""

from configs.reports import report_000


def get_config():
    config = report_000.get_config()
    config.augment = (
        dict(name="random_crop", padding=4),
        dict(name="random_flip"),
        dict(name="auto_augment", policy="cifar10"),
    )
    return config
