"""Where compiled programs are kept."""

import jax
import pytest

from cifar_jax.training import compilation

OPTION = "jax_compilation_cache_dir"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A home for caches; JAX's own setting comes back afterwards."""
    before = getattr(jax.config, OPTION)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update(OPTION, None)
    yield tmp_path
    jax.config.update(OPTION, before)


def test_each_kind_of_processor_has_its_folder(folder, monkeypatch):
    kept = []
    for processor in ("one", "one", "other"):
        monkeypatch.setattr(compilation.platform, "processor", lambda p=processor: p)
        compilation.keep_programs()
        kept.append(getattr(jax.config, OPTION))
    assert kept[0] == kept[1] != kept[2]
    assert all(path.startswith(str(folder / "cifar_jax")) for path in kept)


def test_what_the_environment_says_comes_first(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    compilation.keep_programs()
    assert getattr(jax.config, OPTION) is None


def test_a_home_that_cannot_be_written_does_not_matter(folder):
    (folder / "cifar_jax").write_text("a file is in the way")
    compilation.keep_programs()
    assert getattr(jax.config, OPTION) is None
