"""Calls for processes of their own, which import no more than this module."""

import os
import time


def pause(seconds):
    time.sleep(seconds)
    return os.getpid()


def facts():
    return os.getpid(), os.environ["NPROC"], os.getcwd()
