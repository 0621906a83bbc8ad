import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from cifar_jax.evaluation import breakdown, hlo, traces
from cifar_jax.evaluation.traces import Event

ROOT = pathlib.Path(__file__).parent.parent
# What XLA writes for a GPU, in short.
GPU_PROGRAM = """HloModule jit_several, is_scheduled=true

%fused_reduce (p.1: bf16[8,4]) -> f32[4] {
  %p.1 = bf16[8,4]{1,0} parameter(0)
  %c.1 = f32[8,4]{1,0} convert(%p.1), metadata={op_name="a/jvp(ResNet)/bn1/convert"}
  ROOT %r.1 = f32[4]{0} reduce(%c.1), dimensions={0}, to_apply=%add, \
metadata={op_name="jit(several)/while/body/jvp(ResNet)/stage1_block1/bn1/reduce_sum"}
}

%fused_apply (p.2: bf16[8,4]) -> bf16[8,4] {
  %p.2 = bf16[8,4]{1,0} parameter(0)
  ROOT %m.1 = bf16[8,4]{1,0} multiply(%p.2, %p.2), \
metadata={op_name="jit(several)/while/body/jvp(ResNet)/stage1_block1/bn1/mul"}
}

ENTRY %main.5 (x: bf16[8,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  %while.1 = (s32[], bf16[8,4]{1,0}) while(%x), condition=%c, body=%b
  %cudnn-conv.1 = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%x), \
custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(several)/while/body/jvp(ResNet)/conv1/conv_general_dilated"}
  %cudnn-conv-bw-filter.2 = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%x), \
custom_call_target="__cudnn$convBackwardFilter", \
metadata={op_name="jit(several)/transpose(jvp(ResNet))/conv1/conv_general_dilated"}
  %input_reduce_fusion.3 = f32[4]{0} fusion(%x), kind=kInput, calls=%fused_reduce
  %loop_multiply_fusion.4 = bf16[8,4]{1,0} fusion(%x), kind=kLoop, calls=%fused_apply
  %copy.9 = bf16[8,4]{1,0} copy(%x)
  %add.7 = f32[4]{0} add(%x), metadata={op_name="jit(several)/optimizer/add"}
  %gather.2 = u8[8]{0} gather(%x), metadata={op_name="jit(several)/gather/gather"}
  %rotate.2 = u8[8]{0} gather(%x), metadata={op_name="jit(several)/augment/gather"}
  %pool.2 = bf16[8]{0} select-and-scatter(%x), \
metadata={op_name="jit(several)/transpose(jvp(ResNet))/stage1_pool/select_and_scatter"}
  %all-reduce.1 = f32[4]{0} all-reduce(%x), to_apply=%add, \
metadata={op_name="jit(several)/while/body/jvp(ResNet)/stage1_block1/bn1/reduce_sum"}
}
"""
CATEGORIES = {
    "while.1": "control",
    "cudnn-conv.1": "conv_forward",
    "cudnn-conv-bw-filter.2": "conv_backward",
    "input_reduce_fusion.3": "bn_reductions",
    "loop_multiply_fusion.4": "elementwise",
    "copy.9": "copies",
    "add.7": "optimizer",
    "gather.2": "gather",
    "rotate.2": "augment",
    "pool.2": "pooling",
    "all-reduce.1": "communication",
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_what_an_operation_is_for(name):
    program = hlo.Program(GPU_PROGRAM)
    assert program.module == "jit_several"
    assert program.category(program.find(name)) == CATEGORIES[name]
    kernel = program.find(name.replace(".", "_").replace("-", "_"))
    assert kernel == program.find(name)


def write_trace(path, events, *, line="Stream #7(Compute)"):
    """Writes what the profiler does, for a GPU: (name, start, length, hlo_op) in ns."""
    names = dict.fromkeys(name for name, *_ in events)
    number = {name: i + 1 for i, name in enumerate(names)}
    text = 'planes { name: "/device:GPU:0" lines { '
    text += f'name: "{line}" timestamp_ns: 0 '
    for name, start, length, hlo_op in events:
        text += f"events {{ metadata_id: {number[name]} offset_ps: {start}000 "
        text += f"duration_ps: {length}000 "
        text += 'stats { metadata_id: 2 str_value: "jit_several" } '
        if hlo_op:
            text += f'stats {{ metadata_id: 1 str_value: "{hlo_op}" }} '
        text += "} "
    text += "} "
    for name, i in number.items():
        text += f'event_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }} '
    for i, name in ((1, "hlo_op"), (2, "hlo_module")):
        text += f'stat_metadata {{ key: {i} value {{ id: {i} name: "{name}" }} }} '
    serialized = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text + "}")
    path.write_bytes(serialized)


def test_a_trace_of_a_gpu(tmp_path):
    kernels = [
        ("sm90_kernel", 0, 10, "while.1::cudnn-conv.1"),
        ("sm90_kernel", 20, 30, "cudnn-conv-bw-filter.2"),
        ("input_reduce_fusion_3", 50, 5, ""),  # out of a recorded graph
        ("sm90_xmma_dgrad_implicit_gemm", 60, 5, ""),
        ("mystery", 70, 5, ""),
    ]
    write_trace(tmp_path / "a.xplane.pb", kernels)
    found = traces.read(tmp_path / "a.xplane.pb", hlo.Program(GPU_PROGRAM))
    assert found == [
        Event(0, 10, "conv_forward"),
        Event(20, 50, "conv_backward"),
        Event(50, 55, "bn_reductions"),
        Event(60, 65, "conv_backward"),
        Event(70, 75, "unknown"),
    ]
    write_trace(tmp_path / "b.xplane.pb", kernels, line="XLA Modules")
    assert traces.read(tmp_path / "b.xplane.pb", hlo.Program(GPU_PROGRAM)) == []


def test_a_trace_of_this_processor(tmp_path):
    def loss(kernel, x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.numpy.square(y).sum()

    def step(kernel, x):
        with jax.named_scope("augment"):
            x = jax.numpy.sin(x)
        return jax.grad(loss)(kernel, x)

    kernel = np.ones((3, 3, 8, 8), np.float32)
    x = np.ones((64, 32, 32, 8), np.float32)
    compiled = jax.jit(step).lower(kernel, x).compile()
    jax.block_until_ready(compiled(kernel, x))
    jax.profiler.start_trace(tmp_path)
    jax.block_until_ready(compiled(kernel, x))
    jax.profiler.stop_trace()
    (file,) = pathlib.Path(tmp_path).rglob("*.xplane.pb")
    found = traces.read(file, hlo.Program(compiled.as_text()))
    shares = breakdown.share_out(found)
    assert {"augment", "conv_forward", "conv_backward"} <= set(shares)
    assert sum(shares.values()) <= max(e.end for e in found) - min(
        e.start for e in found
    )


def sampled(events, end):
    """Shares the time out by looking at each moment."""
    shares = {}
    for moment in range(end):
        running = [e.category for e in events if e.start <= moment < e.end]
        works = [c for c in running if c != "control"] or running
        for category in works:
            shares[category] = shares.get(category, 0) + 1 / len(works)
    return shares


def test_time_is_shared_out_once():
    random = np.random.default_rng(0)
    for _ in range(20):
        events = []
        for _ in range(12):
            start = int(random.integers(0, 100))
            end = start + int(random.integers(0, 40))
            kind = str(random.choice(["a", "b", "c", "control"]))
            events.append(Event(start, end, kind))
        expected = sampled(events, 150)
        assert breakdown.share_out(events) == pytest.approx(expected)


COSTS = {
    "pixels": 100.0,
    "flops": 1000.0,
    "conv_elements": 50.0,
    "norm_elements": 30.0,
    "dtype_bytes": 2,
    "parameter_bytes": 40.0,
    "optimizer_bytes": 40.0,
}


def test_the_floor():
    found = breakdown.floor_ms(COSTS, {"flops": 1e6, "bytes_per_second": 1e6})
    assert found == pytest.approx(
        {
            "conv_forward": 1.0,  # 1000 FLOPs; its 200 bytes take less
            "conv_backward": 2.0,
            "bn_reductions": 0.18,
            "elementwise": 0.3,
            "gather": 0.2,
            "augment": 0.3,
            "optimizer": 0.2,  # 160 bytes of state read and written, 40 of gradients
        }
    )
    slow = breakdown.floor_ms(COSTS, {"flops": 1e6, "bytes_per_second": 1e5})
    assert slow["conv_forward"] == 2.0  # now its bytes are what takes longest


def test_gaps_are_what_is_left_of_a_step():
    events = [Event(0, 2e6, "conv_forward"), Event(3e6, 4e6, "unknown")]
    found = breakdown.summarize(
        events, COSTS, {"flops": 1e6, "bytes_per_second": 1e6}, steps=2, step_ms=4.0
    )
    assert found["categories"]["conv_forward"] == {
        "ms": 1.0,
        "floor_ms": 1.0,
        "ops": 0.5,
    }
    assert (found["busy_ms"], found["gaps_ms"]) == (1.5, 2.5)
    assert found["traced_step_ms"] == 2.0
    assert found["unknown_share"] == pytest.approx(1 / 3)
    assert found["flops_floor_ms"] == 3.0


def test_nameless_kernels_are_traced_again_without_graphs(monkeypatch):
    environments = []

    def measure(config, steps, repeats, environment):
        environments.append(environment)
        share = 0.5 if len(environments) == 1 else 0.0
        return {"unknown_share": share, "step_ms": float(len(environments))}

    monkeypatch.setattr(breakdown, "_measure", measure)
    from cifar_jax import config

    found = breakdown.measure(config.get_config())
    assert environments == [{}, {"XLA_FLAGS": "--xla_gpu_enable_command_buffer="}]
    assert (found["step_ms"], found["usual_step_ms"]) == (2.0, 1.0)


@pytest.mark.slow
def test_command(tmp_path, digits_dir):
    command = [sys.executable, "scripts/breakdown.py", "--config=configs/quickstart.py"]
    command += [f"--config.data.dir={digits_dir}", f"--output={tmp_path}/found.json"]
    command += ["--config.model.widths=(8,)", "--config.model.stage_sizes=(1,)"]
    command += ["--config.model.strides=(2,)", "--steps=3"]
    environment = os.environ | {"XLA_FLAGS": ""}  # one device
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "found.json").read_text())
    expected = {"conv_forward", "conv_backward", "bn_reductions", "elementwise"}
    expected |= {"gather", "augment", "optimizer"}
    for name in expected:
        assert record["categories"][name]["ms"] > 0
        assert record["categories"][name]["floor_ms"] > 0
        assert name in done.stdout
    assert record["unknown_share"] == 0
    total = sum(each["ms"] for each in record["categories"].values())
    assert record["busy_ms"] == pytest.approx(total) and total > 0
    # The stem on 16x16; a block of two convolutions and a projection on 8x8; the head.
    macs = 256 * 27 * 8 + 64 * (2 * 9 + 1) * 8 * 8 + 8 * 10
    share = record["batch_size"] / record["num_devices"]
    assert record["costs"]["flops"] == share * 2 * macs
