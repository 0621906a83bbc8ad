"""The forms of a recipe, after the colon of --config FILE:FORM. Not a config itself."""

# What every tiny form changes: it runs everything in about a minute on a CPU.
TINY = {
    "data.train_split": "train[:2%]",
    "data.test_split": "test[:10%]",
    "train.epochs": 3,
    "train.batch_size": 64,
    "train.cpu_devices": 2,
    "optim.learning_rate": 0.1,
}


def apply(config, form, tiny, **others):
    """Changes a recipe to one of its forms, and returns it.

    Args:
      config: Config of the recipe.
      form: None: recipes are compared on the validation images;
        "full": trains on all images, and tests the last state; "tiny": as above.
      tiny: Further keys that the tiny form changes.
      **others: Forms of this recipe alone, each with the keys that it changes.

    Raises:
      ValueError: If the form is unknown.
    """
    forms = {None: {}, "full": {"data.validation": 0}, "tiny": TINY | tiny, **others}
    if form not in forms:
        names = ", ".join(filter(None, forms))
        raise ValueError(f"form {form!r} is unknown; use one of {names}")
    config.update_from_flattened_dict(forms[form])
    return config
