"""Downloading an official archive, with its SHA-256 checked."""

import hashlib
import pathlib
from collections.abc import Callable

import requests

from cifar_jax import UserError
from cifar_jax.data.archive_spec import ArchiveSpec

Report = Callable[[str], None]  # takes one line for the person who waits


def download(
    spec: ArchiveSpec, folder: pathlib.Path, report: Report = print
) -> pathlib.Path:
    """Downloads the archive unless a good copy is already there.

    Args:
      spec: Archive to download, with its size and SHA-256.
      folder: Folder that the archive is put into, under its own name.
      report: Called with a line at the start, and for each tenth of the archive.

    Returns:
      Path of the archive, its size and SHA-256 verified.
    """
    path = folder / spec.archive
    if path.exists() and _sha256(path) == spec.sha256:
        return path
    report(f"Downloading {spec.url} ({spec.size / 1e6:.0f} MB)")
    folder.mkdir(parents=True, exist_ok=True)
    partial, tenths = path.with_suffix(".part"), 0
    try:
        with requests.get(spec.url, stream=True, timeout=10) as response:
            response.raise_for_status()
            with partial.open("wb") as file:
                for chunk in response.iter_content(1 << 20):
                    file.write(chunk)
                    if file.tell() * 10 // spec.size > tenths:
                        tenths = file.tell() * 10 // spec.size
                        report(f"  {file.tell() / 1e6:.0f} of {spec.size / 1e6:.0f} MB")
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


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
