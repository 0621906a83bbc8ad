"""Downloads from servers that stall, cut, lie, refuse ranges, or are gone."""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support import small_cifar
from support.runs import ROOT
from support.server import serving

from cifar_jax import UserError
from cifar_jax.data import archive_spec, builders, download, sources

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Waits for tenths of seconds where a person waits for seconds."""
    for name, value in (
        ("STALL_SECONDS", 0.5),
        ("SLOW_SECONDS", 0.3),
        ("PAUSE_SECONDS", 0.01),
        ("CHUNK", 10_000),
    ):
        monkeypatch.setattr(download, name, value)


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


def spec_of(server, *paths, base=small_cifar.SPEC):
    """Returns a spec whose sources are these folders of the server."""
    first, *others = [server.url(f"{path}") for path in paths]
    return dataclasses.replace(
        base,
        url=f"{first}/{base.archive}",
        mirrors=tuple(others),
        size=len(server.content),
        sha256=hashlib.sha256(server.content).hexdigest(),
    )


def fetch(server, folder, *paths):
    """Downloads, checks what came, and returns the lines that were reported."""
    lines, spec = [], spec_of(server, *paths)
    path = download.download([spec], folder, lines.append)
    assert path == folder / spec.archive
    assert path.read_bytes() == server.content
    assert list(folder.iterdir()) == [path], "something is left"
    return lines


def test_a_download_is_verified_and_kept(server, tmp_path):
    lines = fetch(server, tmp_path / "downloads", "good", "other")
    url = server.url(f"good/{small_cifar.SPEC.archive}")
    assert lines[0] == f"Downloading {url} (1 MB)"
    assert len(lines) == 11
    for line in lines[1:]:
        done, rate, left = line.split(", ")
        assert done.startswith("  ") and done.endswith(" of 1 MB")
        assert rate.endswith(" MB/s") and left == "0:00 left"
    assert fetch(server, tmp_path / "downloads", "good") == []
    assert server.requests == [("good", None)], "a good copy was downloaded again"


@pytest.mark.parametrize("old", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_damaged_archive_is_replaced(server, tmp_path, old):
    path = tmp_path / small_cifar.SPEC.archive
    path.write_bytes(old)
    fetch(server, tmp_path, "good")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("gone", "HTTP 404 Not Found"),
        ("lies", "sent bytes with another SHA-256"),
        ("endless", "sent bytes with another SHA-256"),
        ("an error page", "offers 26 bytes instead of 1,000,000"),
        ("stalls", "silent for 0.5 s"),
        ("slow 20000", "only .. kB/s"),
    ],
)
def test_the_next_source_is_asked(server, tmp_path, answer, reason):
    server.answers["bad"] = [answer]
    lines = fetch(server, tmp_path, "bad", "good")
    host = f"127.0.0.1:{server.server_port}"
    (line,) = [line for line in lines if line.startswith(f"  {host}: ")]
    text = line.removeprefix(f"  {host}: ")
    assert len(text) == len(reason) and text[:5] == reason[:5]
    assert server.requests[-1][0] == "good"
    if answer in ("stalls", "slow 20000"):  # what it has sent is not asked for again
        start = int(server.requests[-1][1].strip("bytes=-"))
        assert 0 < start <= len(CONTENT) // 2


def test_a_source_that_breaks_off_is_asked_for_the_rest(server, tmp_path):
    server.answers["bad"] = ["cuts", "cuts", ""]
    fetch(server, tmp_path, "bad", "other")
    assert server.requests == [
        ("bad", None),
        ("bad", "bytes=500000-"),
        ("bad", "bytes=750000-"),
    ]


def test_a_source_without_ranges_sends_all_again(server, tmp_path):
    server.answers["bad"] = ["cuts", "no ranges"]
    fetch(server, tmp_path, "bad")
    assert len(server.requests) == 2


@pytest.mark.parametrize("part", [CONTENT[:300_000], CONTENT, CONTENT + b"x", b"x"])
def test_a_partial_file_is_resumed_or_replaced(server, tmp_path, part):
    """The last one is what another source has lied."""
    (tmp_path / f"{small_cifar.SPEC.archive}.part").write_bytes(part)
    fetch(server, tmp_path, "good")
    expected = {300_000: ["bytes=300000-"], 1: ["bytes=1-", None], 1_000_001: [None]}
    assert [wanted for _, wanted in server.requests] == expected.get(len(part), [])


def test_a_lie_that_breaks_off_does_not_spoil_an_honest_source(server, tmp_path):
    part = tmp_path / f"{small_cifar.SPEC.archive}.part"
    part.write_bytes(bytes(1000))
    server.answers["bad"] = ["lies"]
    fetch(server, tmp_path, "bad", "good")
    assert server.requests == [
        ("bad", "bytes=1000-"),
        ("bad", None),
        ("good", None),
    ]


def test_the_fastest_of_slow_sources_is_asked_again(server, tmp_path, monkeypatch):
    server.answers = {"a": ["slow 200000"], "b": ["slow 400000"], "c": ["gone"]}
    monkeypatch.setattr(download, "SLOW_RATE", 5_000_000)
    fetch(server, tmp_path, "a", "b", "c")
    assert [path for path, _ in server.requests] == ["a", "b", "c", "b"]


def test_all_failures_are_one_line_and_keep_what_came(server, tmp_path):
    server.answers = {"a": ["gone"], "b": ["cuts", "gone"]}
    host = rf"127\.0\.0\.1:{server.server_port}"
    match = (
        r"^cifar-10-binary\.tar\.gz cannot be downloaded "
        rf"\({host}: HTTP 404 Not Found; {host}: HTTP 404 Not Found\)$"
    )
    spec = spec_of(server, "a", "b")
    with pytest.raises(UserError, match=match):
        download.download([spec], tmp_path, lambda line: None)
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == CONTENT[: len(CONTENT) // 2]
    server.answers = {}
    fetch(server, tmp_path, "a")
    assert server.requests[-1] == ("a", "bytes=500000-")


def test_a_host_that_is_not_there(tmp_path):
    with serving(CONTENT) as gone:
        spec = spec_of(gone, "a")
    with pytest.raises(UserError, match=r"ConnectionError\)$"):
        download.download([spec], tmp_path, lambda line: None)


def test_a_proxy_is_used(server, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url("").rstrip("/"))
    spec = dataclasses.replace(
        spec_of(server, "a"), url="http://images.invalid/a.tar.gz"
    )
    path = download.download([spec], tmp_path, lambda line: None)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("images.invalid", None)]


def test_a_full_disk_is_named(server, tmp_path, monkeypatch):
    spec = spec_of(server, "good")
    monkeypatch.setattr(builders.BUILDERS["cifar10"], "specs", (spec,))
    open_file = pathlib.Path.open

    def full(path, *args):
        if path.suffix == ".part":
            raise OSError(28, "No space left on device")
        return open_file(path, *args)

    monkeypatch.setattr(pathlib.Path, "open", full)
    source = sources.open("cifar10", str(tmp_path), report=lambda line: None)
    with pytest.raises(UserError, match="cannot be prepared in .*No space left"):
        source.prepare()


@pytest.mark.parametrize("python", [False, True])
def test_either_archive_is_prepared(tmp_path, monkeypatch, python):
    """The binary one is gone, so the Python one is downloaded."""
    base = small_cifar.PYTHON_SPEC if python else small_cifar.SPEC
    folder = small_cifar.write_folder(tmp_path / "copy", base)
    packed = small_cifar.pack(folder, tmp_path / "archive.tar.gz").read_bytes()
    with serving(packed) as server:
        server.answers["gone"] = ["gone"]
        specs = [
            spec_of(server, "gone"),
            spec_of(server, "python", base=small_cifar.PYTHON_SPEC),
        ]
        if not python:
            specs[0] = spec_of(server, "binary")
        monkeypatch.setattr(builders.BUILDERS["cifar10"], "specs", specs)
        lines, data_dir = [], tmp_path / "tfds"
        source = sources.open("cifar10", str(data_dir), report=lines.append)
        for split in ("train", "test"):
            images, labels = small_cifar.examples(split)
            np.testing.assert_array_equal(source.read(split).images, images)
            np.testing.assert_array_equal(source.read(split).labels, labels)
    assert lines[-1] == f"Preparing cifar10 in {data_dir}"
    (archive,) = (data_dir / "downloads").glob("cifar*")
    assert archive.name == base.archive


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_all_sources_are_https_and_have_a_digest(name):
    binary, python = builders.BUILDERS[name].specs
    checksums = pathlib.Path(tfds.__file__).parent / "url_checksums" / f"{name}.txt"
    url, size, sha256, _ = checksums.read_text().split("\t")
    assert (binary.url, binary.size, binary.sha256) == (url, int(size), sha256)
    assert not binary.keys and python.keys
    for spec in (binary, python):
        assert len(spec.sha256) == 64 and spec.size > 160e6
        assert len(set(spec.addresses)) == len(spec.addresses) > 1
        assert all(address.startswith("https://") for address in spec.addresses)
        assert all(address.endswith(f"/{spec.archive}") for address in spec.addresses)
    assert archive_spec.SPECS[:2] == (archive_spec.CIFAR10, archive_spec.CIFAR100)


PREPARE = """
import dataclasses, json, sys
from support import small_cifar
from cifar_jax import _cli, prepare
from cifar_jax.data import builders
facts = json.loads(sys.argv[1])
spec = dataclasses.replace(small_cifar.SPEC, mirrors=(), **facts)
builders.BUILDERS["cifar10"].specs = (spec,)
sys.exit(_cli.run_command(prepare, sys.argv[2:]))
"""


def test_one_process_downloads_and_prepares_and_the_others_wait(tmp_path):
    folder = small_cifar.write_folder(tmp_path / "copy")
    packed = small_cifar.pack(folder, tmp_path / "archive.tar.gz").read_bytes()
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with serving(packed) as server:
        server.answers["good"] = [f"slow {len(packed) // 2}"]
        spec = spec_of(server, "good")
        facts = f'{{"url": "{spec.url}", "size": {spec.size}, '
        facts += f'"sha256": "{spec.sha256}"}}'
        arguments = [facts, f"--data_dir={tmp_path / 'tfds'}"]
        processes = [
            subprocess.Popen(
                [sys.executable, "-u", "-c", PREPARE, *arguments],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(3)
        ]
        outputs = [process.communicate()[0] for process in processes]
        assert [p.returncode for p in processes] == [0, 0, 0], outputs
        assert server.requests == [("good", None)]
    for output in outputs:
        assert f"cifar10 is in {tmp_path / 'tfds' / 'cifar10' / '3.0.2'} (" in output
    assert sum("Preparing cifar10" in output for output in outputs) == 1


def test_a_killed_process_leaves_what_it_downloaded(tmp_path):
    with serving(CONTENT) as server:
        server.answers["a"] = ["slow 200000", ""]
        spec = spec_of(server, "a")
        facts = f'{{"url": "{spec.url}", "size": {spec.size}, '
        facts += f'"sha256": "{spec.sha256}"}}'
        process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, facts, f"--data_dir={tmp_path}"],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.DEVNULL,
        )
        part = tmp_path / "downloads" / f"{spec.archive}.part"
        while not (part.exists() and part.stat().st_size > 100_000):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        server.answers["a"] = [""]
        assert download.download([spec], part.parent, lambda line: None).exists()
        start = int(server.requests[-1][1].strip("bytes=-"))
        assert start > 100_000
