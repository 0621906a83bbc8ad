import os
import time

from cifar_jax.evaluation import gpu

SMI = """#!/bin/sh
case "$1" in
*driver*) echo "A Chip, 580.1, 700.00, 1980, 3201" ;;
*) echo "$(cat $COUNT | wc -l)00, 3201, [N/A], 40"; echo x >> $COUNT ;;
esac
"""


def install(tmp_path, monkeypatch, text):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(text)
    smi.chmod(0o755)
    (tmp_path / "count").write_text("x\n")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_clocks_while_a_block_runs(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, SMI)
    with gpu.Watch(seconds=0.01) as watch:
        while len(watch._readings) < 3:
            time.sleep(0.01)
        found = watch.summary()
    assert (found["name"], found["driver_version"]) == ("A Chip", "580.1")
    assert found["sm_mhz"]["min"] == 100
    assert found["sm_mhz"]["max"] == 100 * found["readings"]
    assert found["memory_mhz"]["median"] == 3201
    assert "watts" not in found  # it did not tell
    assert "A Chip, driver 580.1" in gpu.line(found)


def test_without_a_gpu(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "#!/bin/sh\necho no devices; exit 9\n")
    with gpu.Watch(seconds=0.01) as watch:
        time.sleep(0.1)
    assert watch.summary() is None
    monkeypatch.setenv("PATH", "")
    with gpu.Watch() as watch:
        pass
    assert watch.summary() is None
