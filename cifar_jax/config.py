"""The default config: every key that a config file or the command line may set.

A config file starts from `get_config()` and overrides a few values.
"""

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
    config.augment = (  # transforms of the training images, in their order
        dict(name="random_crop", padding=4, mode="zero"),
        dict(name="random_flip"),
    )
    config.model = _model()
    config.budget = ConfigDict()
    # trainable parameters must be fewer; None lifts it
    config.budget.limit = _optional(object, 5_000_000)
    config.optim = _optim()
    config.schedule = _schedule()
    config.train = _train()
    config.evaluate = _evaluate()
    config.checkpoint = _checkpoint()
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    data.name = "cifar10"  # a data set of TFDS: cifar10, digits, or one already on disk
    data.dir = _optional(
        str
    )  # where TFDS data sets lie; None: TFDS_DATA_DIR or its own
    data.source = _optional(str)  # local copy of the archive, to prepare the set from
    data.train_split = "train"  # split string of TFDS
    data.test_split = "test"
    # images held out of train_split: a share below 1, or a count; 0: none, and the last
    # state is scored
    data.validation = 0.1
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
    model.stem_kernel = _optional(int)  # None: the first stage's
    model.stem_stride = 1
    model.stem_pool = 0  # window of a max-pool of stride 2 after the stem; 0: none
    model.block = "basic"  # basic (post-activation) or preact (wide ResNets)
    model.shortcut = "projection"  # projection or padding, where a block changes shape
    model.shortcut_kernel_sizes = (1,)  # of the projections; odd
    model.activation = "relu"  # relu, mish, elu, silu or gelu
    model.se_ratio = 0  # squeeze-and-excitation: channels to hidden units; 0: none
    model.se_bias = True
    model.se_activation = _optional(str)  # None: `activation`
    model.pool = _optional(int)  # window of the last average-pool; None: the whole map
    model.dropout = 0.0  # rate before the classifier,
    model.logits_dropout = 0.0  # on what it returns,
    model.block_dropout = 0.0  # and between the convolutions of each block
    model.zero_init = False  # scale of each basic block's last BatchNorm starts at 0
    model.bn_momentum = 0.9  # share of the old running statistics that a step keeps
    model.bn_epsilon = 1e-5
    model.dtype = "auto"  # of the computation: bfloat16 on accelerators, float32 on CPU
    return model


def _optim() -> ConfigDict:
    optim = ConfigDict()
    # sgd, adam, adamw, or muon (for the blocks' convolutions, with sgd for the rest)
    optim.name = "sgd"
    optim.learning_rate = 0.1  # the schedule's peak
    optim.momentum = 0.9  # sgd, muon
    optim.nesterov = True  # sgd, muon
    optim.b1 = 0.9  # adam, adamw
    optim.b2 = 0.999  # adam, adamw
    optim.weight_decay = 5e-4  # on kernels only; sgd and adam: added to the gradient
    optim.muon_scale = 0.2  # muon: its learning rate, as a share of sgd's
    optim.muon_beta = 0.9  # muon: decay of the gradient's moving average
    optim.muon_steps = 3  # muon: Newton-Schulz iterations
    optim.muon_weight_decay = 5e-3  # muon: times its learning rate
    optim.gradient_clip = 0.0  # largest global norm of the gradient; 0: no clipping
    return optim


def _schedule() -> ConfigDict:
    schedule = ConfigDict()
    schedule.name = "warmup_cosine"  # constant, warmup_cosine or one_cycle
    schedule.warmup_fraction = 0.05  # of the run: linear from initial_factor to peak
    schedule.initial_factor = 0.0  # first learning rate, as a share of the peak
    schedule.final_factor = 0.0  # last learning rate, as a share of the peak
    return schedule


def _train() -> ConfigDict:
    train = ConfigDict()
    train.epochs = 100
    train.batch_size = 512  # over all devices
    train.label_smoothing = 0.0
    train.ema_decay = 0.0  # of weights and batch statistics, per step; 0: no average
    train.cpu_devices = 0  # devices that a CPU is divided into; 0: as JAX has it
    train.steps_per_dispatch = 0  # steps in one call of the device; 0: chosen by device
    # without a step for so long, a run of several processes ends: one hangs; 0: never
    train.watchdog_seconds = 1800.0
    return train


def _evaluate() -> ConfigDict:
    evaluate = ConfigDict()
    evaluate.batch_size = 1000
    evaluate.every_epochs = 1  # validation; the last epoch always has one
    return evaluate


def _checkpoint() -> ConfigDict:
    checkpoint = ConfigDict()
    checkpoint.every_epochs = 1  # how often the latest state is saved,
    checkpoint.every_seconds = 300.0  # and how often within long epochs
    checkpoint.keep = 2  # latest states that are kept
    return checkpoint
