"""The config of `tiny_run`, for processes that train it."""

from support.runs import tiny_config


def get_config():
    return tiny_config("")
