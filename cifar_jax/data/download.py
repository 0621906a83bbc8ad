"""Downloading an official archive from the first of its sources that sends it.

TFDS's download manager and pooch know one address of a file and start it anew when it
breaks off. Here the next source goes on where the last one stopped: all send the same
bytes, whose SHA-256 is checked at the end.
"""

import hashlib
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from cifar_jax import UserError
from cifar_jax.data.archive_spec import ArchiveSpec

Report = Callable[[str], None]  # takes one line for the person who waits

STALL_SECONDS = 15.0  # silence after which a source is left
# A source is slow below this many bytes a second, once it has had some seconds. It is
# left for the next one, and the fastest is asked again if all of them are slow.
SLOW_RATE, SLOW_SECONDS = 300_000, 15.0
PAUSE_SECONDS = 1.0  # before a source that has broken off is asked for the rest
REPORT_SECONDS = 20.0  # longest time without a line
CHUNK = 1 << 16  # bytes


class _Left(Exception):
    """A source is left; the text says why.

    Attributes:
      rate: Bytes a second of a source that is only slow, and may be asked again; 0: it
        has failed.
    """

    def __init__(self, reason: str, rate: float = 0.0):
        super().__init__(reason)
        self.rate = rate


def download(
    specs: Sequence[ArchiveSpec], folder: pathlib.Path, report: Report = print
) -> pathlib.Path:
    """Downloads one of several archives with the same images, unless one is there.

    A proxy is used if the environment names one (HTTPS_PROXY). What was downloaded when
    an error or a signal ends the call is kept, and the next call resumes it.

    Args:
      specs: Archives that will do, with their sources; the first is preferred.
      folder: Folder that the archive is put into, under its own name.
      report: Called with a line for each source, and with the progress.

    Returns:
      Path of the archive, its size and SHA-256 verified.
    """
    for spec in specs:
        path = folder / spec.archive
        if path.exists() and _sha256(path) == spec.sha256:
            return path
    folder.mkdir(parents=True, exist_ok=True)
    sources = [(url, spec) for spec in specs for url in spec.addresses]
    faults: dict[str, _Left] = {}
    for slowest in (SLOW_RATE, 0):
        for url, spec in sources:
            # What is there so far, from any source.
            part = folder / f"{spec.archive}.part"
            try:
                _complete(part, url, spec, slowest, report)
            except _Left as fault:
                faults[url] = fault
                report(f"  {urlsplit(url).netloc}: {fault}")
                continue
            part.replace(folder / spec.archive)
            for other in specs:
                (folder / f"{other.archive}.part").unlink(missing_ok=True)
            return folder / spec.archive
        sources = [source for source in sources if faults[source[0]].rate]
        sources.sort(key=lambda source: faults[source[0]].rate, reverse=True)
    reasons = "; ".join(f"{urlsplit(url).netloc}: {faults[url]}" for url in faults)
    raise UserError(f"{specs[0].archive} cannot be downloaded ({reasons})")


def _complete(
    part: pathlib.Path, url: str, spec: ArchiveSpec, slowest: float, report: Report
) -> None:
    """Completes a partial file, which may not be there, and checks it.

    Raises:
      _Left: If the source fails, or sends fewer bytes a second than `slowest`.
    """
    report(f"Downloading {url} ({spec.size / 1e6:.0f} MB)")
    while True:
        resumed, before = _size(part), time.monotonic()
        if resumed < spec.size:
            fault = _receive(part, url, spec.size, slowest, report)
            if fault is not None:
                gained = _size(part) - resumed
                has_stalled = fault.rate and slowest
                if has_stalled or gained <= slowest * (time.monotonic() - before):
                    raise fault
                time.sleep(PAUSE_SECONDS)
                continue
        if _sha256(part) == spec.sha256:
            return
        part.unlink()
        if not resumed:
            raise _Left("sent bytes with another SHA-256")
        # Another source may have sent the wrong bytes, so this one sends all of them.


def _receive(
    part: pathlib.Path, url: str, size: int, slowest: float, report: Report
) -> _Left | None:
    """Adds what a source sends to a partial file; returns why it broke off, if so."""
    import requests  # slow to import, and seldom needed
    from urllib3 import exceptions

    position = _size(part)
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={position}-"}
    if not position:
        del headers["Range"]
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=STALL_SECONDS
        ) as response:
            if not response.ok:
                return _Left(f"HTTP {response.status_code} {response.reason}")
            if response.status_code != 206:  # it sends all, whatever is there
                position = 0
            length = response.headers.get("Content-Length", "")
            if length.isdecimal() and (total := position + int(length)) != size:
                return _Left(f"offers {total:,} bytes instead of {size:,}")
            # Not iter_content, which waits until a chunk is full.
            receive = getattr(response.raw, "read1", response.raw.read)
            chunks = iter(lambda: receive(CHUNK), b"")
            with part.open("r+b" if part.exists() else "wb") as file:
                file.seek(position)
                for chunk in _watched(chunks, position, size, slowest, report):
                    file.write(chunk)
    except (requests.ReadTimeout, exceptions.ReadTimeoutError):
        # The slowest of those that are asked again.
        return _Left(f"silent for {STALL_SECONDS:g} s", rate=1.0)
    except (requests.RequestException, exceptions.HTTPError) as error:
        return _Left(type(error).__name__)
    return None if _size(part) >= size else _Left("broke off")


def _watched(
    chunks: Iterator[bytes], start: int, size: int, slowest: float, report: Report
) -> Iterator[bytes]:
    """Yields chunks, reports the progress, and leaves a slow source."""
    begin = last = time.monotonic()
    position = start
    for chunk in chunks:
        yield chunk
        before, position, now = position, position + len(chunk), time.monotonic()
        rate = (position - start) / max(now - begin, 1e-3)
        is_tenth = before * 10 // size < position * 10 // size
        if is_tenth or now - last > REPORT_SECONDS:
            last, left = now, (size - position) / rate
            done = f"  {position / 1e6:.0f} of {size / 1e6:.0f} MB"
            minutes = f"{left // 60:.0f}:{left % 60:02.0f}"
            report(f"{done}, {rate / 1e6:.2f} MB/s, {minutes} left")
        if position > size:
            return  # it would fill the disk
        if now - begin > SLOW_SECONDS and rate < slowest:
            raise _Left(f"only {rate / 1e3:.0f} kB/s", rate)


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
