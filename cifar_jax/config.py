"""The default config: every key that a config file or the command line may set.

A config file starts from `get_config()` and overrides a few values. A new key has the
default that runs without it had: so they can be gone on with.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict


def _optional(kind: type, value=None) -> config_dict.FieldReference:
    """A key that may be None: from the command line too, if `kind` is object."""
    reference = config_dict.placeholder(kind)
    reference.set(value)
    return reference


def get_config() -> ConfigDict:
    """Returns the default config, which trains resnet_4p9m on CIFAR-10."""
    config = ConfigDict()
    config.seed = 0  # for the weights, the order of the images and the augmentation
    config.data = _data()
    # Transforms of the training images, in their order. Any of them may have `start`
    # and `stop`, shares of the run: it acts from one until the other; and `ramp`: the
    # share of the run in which the images that it acts on grow from none to all.
    config.augment = (
        dict(name="random_crop", padding=4, mode="zero"),
        dict(name="random_flip"),
    )
    config.model = _model()
    config.budget = ConfigDict()
    # trainable parameters must be fewer; None lifts it
    config.budget.limit = _optional(object, 5_000_000)
    config.optim = _optim()
    config.schedule = _schedule()
    config.init = ConfigDict()
    # run whose best weights training starts from; None: it starts from random ones
    config.init.workdir = _optional(str)
    config.train = _train()
    config.prune = _prune()
    config.distill = _distill()
    config.evaluate = _evaluate()
    config.checkpoint = _checkpoint()
    return config


def of_run(plain: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a run as it was, to be changed and run again.

    Args:
      plain: What the run's config.json holds; keys that are newer have their defaults.
    """
    config = get_config()
    _fill(config, plain)
    return config


def _fill(config: ConfigDict, values: Mapping[str, Any]) -> None:
    for key in values.keys() & config.keys():
        if isinstance(config[key], ConfigDict):
            _fill(config[key], values[key])
        else:
            config[key] = _with_tuples(values[key])


def _with_tuples(value: Any) -> Any:
    """Returns what JSON has made lists of as tuples again."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _data() -> ConfigDict:
    data = ConfigDict()
    # a data set of TFDS (cifar10, cifar100, digits, or one already on disk), or a path:
    # a folder of images, .npz, .npy, a pickled batch, an official archive
    data.name = "cifar10"
    data.dir = _optional(
        str
    )  # where TFDS data sets lie; None: TFDS_DATA_DIR or its own
    data.source = _optional(str)  # local copy of the archive, to prepare the set from
    data.train_split = "train"  # split string of TFDS
    data.test_split = "test"
    # height and width that all images are resized to; None: they have one size
    data.image_size = _optional(tuple)
    # images held out of train_split: a share below 1, or a count; 0: none, and the last
    # state is scored
    data.validation = 0.1
    data.stratified = True  # hold out each class in its proportion
    data.split_seed = 0  # for which images: runs of any `seed` share one validation set
    # where the images lie: device, host (batches are sent ahead, for data that does not
    # fit), or auto: device if they take no more than a quarter of its memory
    data.placement = "auto"
    data.mean = _optional(tuple)  # per channel in [0, 1]; None: of the training images
    data.std = _optional(tuple)
    return data


def _model() -> ConfigDict:
    model = ConfigDict()
    # tuples have one entry for each stage, or a single one that serves them all
    model.stage_sizes = (1, 1, 1, 1)  # residual blocks in each stage
    model.widths = (64, 128, 256, 512)  # channels; a single one doubles with each stage
    model.strides = _optional(tuple)  # of the stages' first blocks; None: 1, then 2
    model.kernel_sizes = (3,)  # of the blocks' convolutions; odd
    model.stem = "conv"  # conv, or whitening: frozen filters that whiten the patches
    model.stem_width = _optional(int)  # channels; None: the first stage's
    # None: the first stage's; an even one leaves the map a pixel smaller
    model.stem_kernel = _optional(int)
    model.stem_stride = 1
    model.stem_pool = 0  # window of a max-pool of stride 2 after the stem; 0: none
    model.block = "basic"  # basic (post-activation) or preact (wide ResNets)
    model.shortcut = "projection"  # projection or padding, where a block changes shape
    model.shortcut_kernel_sizes = (1,)  # of the projections; odd
    # how a stage takes its stride: stride (its first block), or pool: a convolution, a
    # max-pool and a BatchNorm before its blocks, which then keep the map's shape
    model.downsample = "stride"
    model.activation = "relu"  # relu, mish, elu, silu or gelu
    model.se_ratio = 0  # squeeze-and-excitation: channels to hidden units; 0: none
    model.se_bias = True
    model.se_activation = _optional(str)  # None: `activation`
    model.pool = _optional(int)  # window of the last average-pool; None: the whole map
    model.dropout = 0.0  # rate before the classifier,
    model.logits_dropout = 0.0  # on what it returns,
    model.block_dropout = 0.0  # and between the convolutions of each block
    model.stochastic_depth = 0.0  # rate of dropping the last block; earlier ones less
    model.init = "he"  # he (normal, fan-out), or pytorch (its layers' default)
    model.zero_init = False  # scale of each basic block's last BatchNorm starts at 0
    # the first filters of every convolution pass its input channels on unchanged
    model.dirac_init = False
    model.bn_scale = True  # False: BatchNorm has a bias alone
    model.bn_momentum = 0.9  # share of the old running statistics that a step keeps
    model.bn_epsilon = 1e-5
    model.dtype = "auto"  # of the computation: bfloat16 on accelerators, float32 on CPU
    return model


def _optim() -> ConfigDict:
    optim = ConfigDict()
    # sgd, sgdw, adam, adamw, lion, or muon (for the blocks' convolutions)
    optim.name = "sgd"
    optim.learning_rate = 0.1  # the schedule's peak
    optim.momentum = 0.9  # sgd, sgdw
    optim.nesterov = True  # sgd, sgdw
    optim.b1 = 0.9  # adam, adamw, lion
    optim.b2 = 0.999  # adam, adamw, lion
    # sgd and adam: added to the gradient; the others: times the learning rate
    optim.weight_decay = 5e-4
    optim.decayed = "kernels"  # what weight decay touches: kernels, or all
    optim.muon_rest = "sgd"  # muon: the optimiser of all other parameters
    optim.muon_scale = 0.2  # muon: its learning rate, as a share of the rest's
    optim.muon_beta = 0.9  # muon: decay of the gradient's moving average
    optim.muon_steps = 3  # muon: Newton-Schulz iterations
    optim.muon_weight_decay = 5e-3  # muon: times its learning rate
    optim.gradient_clip = 0.0  # largest global norm of the gradient; 0: no clipping
    # of the learning rate, by the paths that a pattern matches: ((".*/bias", 2.0),)
    optim.lr_multipliers = ()
    # sharpness-aware minimisation: radius of the worst case; 0: off. Twice the work
    optim.sam_rho = 0.0
    optim.sam_adaptive = False  # ASAM: each weight's radius is a share of itself
    optim.sam_start = "0%"  # a duration: until then without, at the usual price
    return optim


def _schedule() -> ConfigDict:
    # durations: "5 epochs", "500 steps" or "5%" of the run
    schedule = ConfigDict()
    # warmup_cosine, constant, linear, step, piecewise, cosine_restarts, or one_cycle
    schedule.name = "warmup_cosine"
    schedule.warmup = "5%"  # linear from initial_factor to the peak
    schedule.length = "100%"  # to final_factor; may be longer than the run
    schedule.initial_factor = 0.0  # first learning rate, as a share of the peak
    schedule.final_factor = 0.0  # last learning rate, as a share of the peak
    schedule.period = "10 epochs"  # cosine_restarts: length of the first cosine
    schedule.period_factor = 2  # cosine_restarts: of a period, to the one before
    schedule.decay_every = "10 epochs"  # step
    schedule.decay_factor = 0.9  # step
    schedule.milestones = ()  # piecewise: (("50%", 0.1), ("75%", 0.01)), of the peak
    # one_cycle: momentum (or b1) at the peak and at both ends; None: as in optim
    schedule.momentum_range = _optional(tuple)
    schedule.per_epoch = False  # the first rate of an epoch holds for all of it
    return schedule


def _train() -> ConfigDict:
    train = ConfigDict()
    train.epochs = 100
    train.batch_size = 512  # over all devices; counts each view of an image
    # times that each image is shown in a batch, and so in an epoch, augmented anew each
    # time (Hoffer et al., 2020, arXiv:1901.09335): an epoch has as many times the steps
    train.views = 1
    train.label_smoothing = 0.0
    # of weights and batch statistics, per step t; rises to it as (1 + t) / (10 + t); 0:
    # no average
    train.ema_decay = 0.0
    train.accumulate = 1  # parts of a batch that are computed one after the other
    # epochs without a better validation, after which training ends; 0: never
    train.patience = 0
    train.reload_best = False  # each epoch starts from the best weights so far
    # after which a command saves and stops, with exit code 0; 0: never. The same
    # command goes on
    train.max_seconds = 0.0
    train.cpu_devices = 0  # devices that a CPU is divided into; 0: as JAX has it
    train.steps_per_dispatch = 0  # steps in one call of the device; 0: chosen by device
    # without a step for so long, a run of several processes ends: one hangs; 0: never
    train.watchdog_seconds = 1800.0
    return train


def _prune() -> ConfigDict:
    prune = ConfigDict()
    # share of the weights in the blocks' kernels that is zero in the end; 0: none
    prune.sparsity = 0.0
    prune.start = "0%"  # durations, as in schedule: from one until the other the
    prune.stop = "50%"  # smallest weights die; only later epochs are shipped
    return prune


def _distill() -> ConfigDict:
    distill = ConfigDict()
    # run whose best weights teach, on the same classes: of any size, for the budget is
    # the student's; None: the labels alone do
    distill.teacher = _optional(str)
    distill.weight = 0.9  # of the teacher in the loss; the labels have the rest
    distill.temperature = 4.0  # that the logits of both are divided by
    return distill


def _evaluate() -> ConfigDict:
    evaluate = ConfigDict()
    evaluate.batch_size = 1000
    # test-time augmentation, scored beside the plain figures at the end: none, flip, or
    # multicrop: six views, flipped and moved by a pixel
    evaluate.tta = "none"
    evaluate.every_epochs = 1  # validation; the last epoch always has one
    evaluate.best_by = "accuracy"  # the epoch that is shipped: accuracy, loss, or last
    # images to choose it on: val; or test, as some reports do: no honest accuracy
    evaluate.select_on = "val"
    # score the test images at the end; a study (cifar_jax.search) looks at none of them
    # until it has chosen
    evaluate.test = True
    return evaluate


def _checkpoint() -> ConfigDict:
    checkpoint = ConfigDict()
    checkpoint.every_epochs = 1  # how often the latest state is saved,
    checkpoint.every_seconds = 300.0  # and how often within long epochs
    checkpoint.keep = 2  # latest states that are kept
    return checkpoint


def get_study_config() -> ConfigDict:
    """Returns the default config of a study, which `cifar_jax.search` runs."""
    config = ConfigDict()
    config.base = get_config()  # of every run; the study changes keys of it
    config.study = _study()
    return config


def _study() -> ConfigDict:
    study = ConfigDict()
    # how the space gives designs: list, grid (all combinations), one_at_a_time (each
    # factor varies from `base`), or sample (a sampler proposes them)
    study.kind = "list"
    # list: dict(name="wide", change={"model.widths": (128,)}); else
    # dict(factor="B", values=(1, 2)), and to sample from, also
    # dict(factor="optim.learning_rate", low=1e-4, high=1e-1, log=True).
    # A factor is a key of `base`, or one of report 004's letters: N stages, B blocks in
    # each (B1, B2, ...: in one of them), C channels of the first, `growth` of the width
    # from stage to stage, kernels F, shortcut kernels K, pool P (0: the whole map)
    study.space = ()
    # budget rule: each design takes the largest width below base.budget.limit, or keep
    study.width = "keep"  # keep, or widest
    study.width_multiple = 1  # widest: widths are multiples of it
    study.seeds = 3  # runs of each design, of which the first has base.seed
    # accuracy, loss (of the best validation), parameters, macs, latency (ms for one
    # image) or seconds (of the run); the first one ranks the designs, several ask for
    # their Pareto front
    study.objectives = ("accuracy",)
    study.latency = False  # measure each design's, where it is no objective either
    study.sampler = "tpe"  # sample: tpe, nsga2, or random
    study.sampler_seed = 0
    study.trials = 30  # sample: designs that are tried, each with one seed
    study.finalists = 5  # sample: of which the best are run with all seeds
    # designs whose first run validates too badly end there: none, halving, or hyperband
    study.pruner = "none"
    study.min_epochs = 1  # none ends before
    study.reduction = 3  # of so many runs one goes on, each time
    # what a report has: ("N3-B2", 0.9104), shown beside what is measured
    study.reported = ()
    # CPU threads of a run, whose number changes its rounding; 0: the cores, shared by
    # the workers of a command
    study.threads = 0
    return study
