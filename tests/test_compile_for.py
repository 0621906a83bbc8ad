"""What compilers say of hardware that is not there: `scripts/compile_for.py`."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from support import scripts

# A folder with the wheels of the extras, from pip install --target: beside an ordinary
# JAX they would make it complain about the missing driver.
WHEELS = os.environ.get("CIFAR_JAX_AOT_PATH", "")
COMPILERS = {"h200x8": ("jax_cuda12_plugin", "aot-gpu"), "v5e-8": ("libtpu", "aot-tpu")}
TARGETS = [
    pytest.param(
        target,
        marks=pytest.mark.skipif(
            not (
                os.path.isdir(os.path.join(WHEELS or "nowhere", module))
                or importlib.util.find_spec(module)
            ),
            reason=f"the wheels of the extra {extra} are not here",
        ),
    )
    for target, (module, extra) in COMPILERS.items()
]

# A training call as XLA for GPUs writes it, cut down to what is counted.
CALL = """\
HloModule jit_train_stored, is_scheduled=true

%joined (a: f32[90], b: f32[10]) -> f32[100] {
  %a = f32[90]{0} parameter(0)
  %b = f32[10]{0} parameter(1)
  ROOT %c = f32[100]{0} concatenate(%a, %b), dimensions={0}
}

%until (p: (u32[], pred[])) -> pred[] {
  %p = (u32[], pred[]) parameter(0)
  ROOT %go = pred[] get-tuple-element(%p), index=1
}

%draw (p: (u32[], pred[])) -> (u32[], pred[]) {
  %p = (u32[], pred[]) parameter(0)
  ROOT %q = (u32[], pred[]) fusion(%p), kind=kLoop, calls=%joined
}

%act (x: u8[8,4,4,3]) -> u8[8,4,4,3] {
  %x = u8[8,4,4,3]{3,2,1,0} parameter(0)
  %d = (u32[], pred[]) while(%x), condition=%until, body=%draw, metadata={op_name="\
jit(train_stored)/while/body/augment/cond/branch_1_fun/while"}
  ROOT %y = u8[8,4,4,3]{3,2,1,0} fusion(%x), kind=kLoop, calls=%joined
}

%rest (x: u8[8,4,4,3]) -> u8[8,4,4,3] {
  ROOT %x = u8[8,4,4,3]{3,2,1,0} parameter(0)
}

%step (p: (s32[], u8[8,4,4,3])) -> (s32[], u8[8,4,4,3]) {
  %p = (s32[], u8[8,4,4,3]) parameter(0)
  %x = u8[8,4,4,3]{3,2,1,0} get-tuple-element(%p), index=1
  %y = u8[8,4,4,3]{3,2,1,0} conditional(%x), branch_computations={%rest, %act}, \
metadata={op_name="jit(train_stored)/while/body/augment/cond"}
  %w = bf16[5,3,3,3]{3,2,1,0} fusion(%y), kind=kLoop, calls=%joined
  %f = (bf16[8,4,4,5]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={\
op_name="jit(train_stored)/while/body/jvp(ResNet)/stem_conv/conv_general_dilated"}
  %o = bf16[8,4,4,5]{3,2,1,0} get-tuple-element(%f), index=0
  %g = (bf16[5,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %o), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={\
op_name="jit(train_stored)/while/body/transpose(jvp(ResNet))/stem_conv/conv"}
  %r = f32[145]{0} all-reduce-start(%g), to_apply=%joined
  %s = f32[145]{0} all-reduce-done(%r)
  ROOT %t = (s32[], u8[8,4,4,3]) tuple(%s, %y)
}

%more (p: (s32[], u8[8,4,4,3])) -> pred[] {
  %p = (s32[], u8[8,4,4,3]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(50)
  ROOT %l = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: u8[8,4,4,3]) -> (s32[], u8[8,4,4,3]) {
  %x = u8[8,4,4,3]{3,2,1,0} parameter(0)
  ROOT %w = (s32[], u8[8,4,4,3]) while(%x), condition=%more, body=%step, metadata={\
op_name="jit(train_stored)/while"}
}
"""


def test_a_compiled_call_is_read():
    hlo = scripts.load("_hlo")
    module = hlo.parse(CALL)
    name = hlo.step_computation(module, in_loop=True)
    assert name == "step"
    assert hlo.step_computation(module, in_loop=False) == "main"
    step = hlo.walk(module, name)
    # The conditional's longer branch: a draw in a loop of unknown length, and its use.
    assert [k.part for k in step.kernels] == [
        *("other", "other", "other", "forward", "backward", "collectives")
    ]
    assert step.loops == [
        ("jit(train_stored)/while/body/augment/cond/branch_1_fun/while", None)
    ]
    assert step.conditionals == ["jit(train_stored)/while/body/augment/cond"]
    forward, backward = step.kernels[3:5]
    assert forward.flops == backward.flops == 2 * 8 * 4 * 4 * 5 * 3 * 3 * 3
    assert forward.num_bytes == 8 * 4 * 4 * 3 + 2 * 5 * 3 * 3 * 3 + 2 * 8 * 4 * 4 * 5
    assert hlo.conv_batches(module) == [8]  # of 5 is the gradient of the kernel
    assert hlo.all_reduced(module, name) == [[("f32", (145,))]]
    assert hlo.collectives(module, name) == {"all-reduce": 1}
    assert hlo.gathered_batches(module, name, 8) == 0
    assert hlo.host_callbacks(module) == 0
    assert hlo.product_dtypes(module) == {"bf16": 2}
    assert hlo.walk(module, "main").loops[0] == ("jit(train_stored)/while", 50)


def test_a_step_that_loops_over_parts_of_its_batch_is_whole():
    hlo = scripts.load("_hlo")
    within = CALL.partition("%step (")[2].partition("\n}\n")[0]
    outer = """%outer (p: (s32[], u8[8,4,4,3])) -> (s32[], u8[8,4,4,3]) {
  %p = (s32[], u8[8,4,4,3]) parameter(0)
  ROOT %v = (s32[], u8[8,4,4,3]) while(%p), condition=%more, body=%step
}
"""
    assert within.count("\n") > outer.count("\n")
    call = CALL.replace("%more (", f"{outer}\n%more (", 1).replace(
        "body=%step, metadata", "body=%outer, metadata"
    )
    assert hlo.step_computation(hlo.parse(call), in_loop=True) == "outer"


def test_callbacks_and_gathered_batches_are_seen():
    hlo = scripts.load("_hlo")
    call = CALL.replace("all-reduce-start(%g)", "all-gather-start(%y)").replace(
        "f32[145]{0} all", "u8[64,4,4,3]{3,2,1,0} all"
    )
    call = call.replace("__cudnn$convForward", "xla_ffi_python_gpu_callback")
    module = hlo.parse(call)
    assert hlo.gathered_batches(module, "step", 64) == 1
    assert hlo.gathered_batches(module, "step", 8) == 0
    assert hlo.host_callbacks(module) == 1


def test_an_unknown_target_and_a_missing_wheel_are_one_line(monkeypatch):
    config = "--config=configs/resnet_4p9m.py:tiny"
    code, _, message = scripts.call("compile_for", config, "--target=h300")
    assert code == 2
    assert message.startswith("error: --target is 'h300'; use one of h200, h200x8,")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, message = scripts.call("compile_for", config, "--target=v5e-8")
    assert code == 1 and message.count("\n") == 1
    assert (
        "the compiler for v5e-8 is not installed; install the extra aot-tpu" in message
    )


# A kernel of a TPU: 2 bundles, a loop of 3 trips around another loop, and 1 bundle.
BUNDLES = """\
= control target key start
LH: loop header
     0   :  { %s0 = inlined_call_operand.hbm /* operand 0 */ }
   0x1   :  { %s1 = smov 0 }
   0x2 LB: > { %s2 = sphi %s1, %s3 }
   0x3   : > { %p4 = scmp.ge.s32.totalorder %s3, 3 /* loop exit test */ }
   0x4 LB: >> { %p5 = scmp.ge.s32.totalorder %s6, LIMIT }
   0x5   : >> { %7 = sbr.rel (!%p5) target = $region2 }
   0x6   : > { %8 = sbr.rel (!%p4) target = $region1 }
   0x7   :  {}
   0x8   :  { %9 = vsyncpa [#allocation1], 1 }
"""


def test_the_bundles_of_a_kernel_count_for_each_trip():
    hlo = scripts.load("_hlo")
    assert hlo.bundles(BUNDLES.replace("LIMIT", "5")) == (2 + 3 * (4 + 5 * 2) + 1, True)
    # A limit in a register is not known: that loop counts once.
    assert hlo.bundles(BUNDLES.replace("LIMIT", "%s0")) == (2 + 3 * (4 + 2) + 1, False)


def test_what_a_tpus_compiler_does_not_estimate_is_counted_or_named():
    hlo, script = scripts.load("_hlo"), scripts.load("compile_for")
    call = CALL.replace("concatenate(%a, %b)", "gather(%a, %b)")
    step = hlo.walk(hlo.parse(call), "act")
    target = script.TARGETS["v5e"]
    _, missing = script.estimate(step, target, {})
    assert len(missing) == 2 and all("fusion:gather" in text for text in missing)
    assert all("no estimate" in text for text in missing)
    counted = {"q": (1_500_000, True), "y": (3_000_000, False)}
    parts, missing = script.estimate(step, target, counted)
    assert sum(part["estimated_ms"] for part in parts.values()) == pytest.approx(3.0)
    assert [text.split(": ")[-1] for text in missing] == ["of loops one trip alone"]


def test_an_all_reduce_of_tpus_takes_time():
    hlo, script = scripts.load("_hlo"), scripts.load("compile_for")
    step = hlo.walk(hlo.parse(CALL), "step")
    parts, _ = script.estimate(step, script.TARGETS["v5e-8"], {})
    assert parts["collectives"]["estimated_ms"] > 0


def test_the_published_table_is_made_from_its_files(tmp_path):
    folder = scripts.ROOT / "results/compiled"
    readme = (folder / "README.md").read_text()
    table = readme.split("<!-- compiled:begin -->")[1].split("<!-- compiled:end -->")[0]
    assert scripts.call("compiled_table", f"--folder={folder}")[1].strip() in table
    code, _, message = scripts.call("compiled_table", f"--folder={tmp_path}")
    assert code == 1 and "has no before/*.json and no after/*.json" in message


EVERY_TRANSFORM = """
from configs.records import best

NAMES = '''random_crop random_flip alternating_flip random_rotation random_affine
  color_jitter cutout random_erasing auto_augment rand_augment trivial_augment_wide
  mixup cutmix ricap'''.split()

def get_config():
    config = best.get_config("tiny")
    config.augment = tuple(dict(name=name, ramp=0.5) for name in NAMES)
    config.model.stage_sizes, config.model.widths = (1,), (8,)  # to compile sooner
    config.data.placement = "host"
    config.train.repeats = 2
    config.train.accumulate = 2
    config.optim.sam_rho = 0.05
    return config
"""
RECIPES = {
    "resnet_4p9m": ("--config=configs/resnet_4p9m.py:tiny",),
    "seconds, one step a call": (
        "--config=configs/records/seconds.py:tiny",
        "--config.train.steps_per_dispatch=1",
    ),
    "best": ("--config=configs/records/best.py:tiny",),
    "every transform": ("--config=EVERY_TRANSFORM",),
}


def compile_for(*arguments):
    """Runs the script in a process of its own, which has the wheels."""
    return subprocess.run(
        [sys.executable, "scripts/compile_for.py", *arguments],
        cwd=scripts.ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(scripts.ROOT),
            # What it compiles is what is tested; libtpu aborts at a flag of the CPU's.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
            "XLA_FLAGS": "",
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_of_eight_devices_does_an_eighth(recipe, target, tmp_path):
    """On 8 devices of a CPU XLA divides the work where it does not for accelerators."""
    file = tmp_path / "every_transform.py"
    file.write_text(EVERY_TRANSFORM)
    arguments = [a.replace("EVERY_TRANSFORM", str(file)) for a in RECIPES[recipe]]
    done = compile_for(f"--target={target}", "--json", "--longest_only", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    parts = 2 if recipe == "every transform" else 1  # of a batch that is accumulated
    share = facts["batch_size"] // (8 * parts)
    assert facts["conv_batch_per_device"] == share
    if target == "h200x8":
        assert facts["conv_batches"] == [share]
    assert facts["gradient_all_reduces"] >= 1
    assert facts["reduced_numbers"] >= facts["num_parameters"]  # the gradient of each
    assert not facts["gathered_batches"]
    assert not facts["host_callbacks"] and not facts["float64"]
    assert not facts["conditionals"], facts["conditional_scopes"]
    assert not facts["loops_until_data_say_so"], facts["loop_scopes"]
    assert facts["num_devices"] == 8 and facts["target"] == target
    assert (facts["launches"] is None) == (target == "v5e-8")
    for key in ("bytes_per_step", "memory_bytes_per_device", "estimated_step_ms"):
        assert facts[key] > 0


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_that_eight_devices_cannot_share_is_one_line(target):
    done = compile_for(
        f"--target={target}",
        "--config=configs/resnet_4p9m.py:tiny",
        "--config.train.batch_size=60",
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: train.batch_size is 60, which 8 devices cannot share evenly in 1 parts "
        "(train.accumulate); use 56 or 64\n"
    )
