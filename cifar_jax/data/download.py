"""Downloading an official archive, with its SHA-256 checked."""

import hashlib
import pathlib
from collections.abc import Callable

import requests

from cifar_jax import UserError
from cifar_jax.data.archive_spec import ArchiveSpec

Report = Callable[[str], None]  # takes one line for the person who waits
Progress = Callable[[int, int], None]  # done, total


def download(
    spec: ArchiveSpec, folder: pathlib.Path, *, progress: Progress | None = None
) -> pathlib.Path:
    """Downloads the archive unless a good copy is already there.

    Args:
      spec: What to download, with its size and SHA-256.
      folder: Where the archive is put, under its own name.
      progress: Called with the bytes so far and in all.

    Returns:
      The path of the archive, its size and SHA-256 verified.

    Raises:
      UserError: If there is no connection, or what came is not the archive.
    """
    path = folder / spec.archive
    if path.exists() and _sha256(path) == spec.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    try:
        with requests.get(spec.url, stream=True, timeout=10) as response:
            response.raise_for_status()
            with partial.open("wb") as file:
                for chunk in response.iter_content(1 << 20):
                    file.write(chunk)
                    if progress:
                        progress(file.tell(), spec.size)
        digest = _sha256(partial)
        if digest != spec.sha256:
            raise UserError(
                f"{spec.url} sent {partial.stat().st_size:,} bytes with SHA-256 "
                f"{digest} instead of {spec.size:,} bytes with {spec.sha256}; "
                "try again, or give a copy of the archive"
            )
        partial.replace(path)
    except requests.RequestException as error:
        raise UserError(
            f"{spec.url} cannot be downloaded ({type(error).__name__})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def tenths(report: Report) -> Progress:
    """Returns a progress that reports each tenth of a download."""
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if done * 10 // total > reported:
            reported = done * 10 // total
            report(f"  {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return progress


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
