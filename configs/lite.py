"""EfficientNet-Lite0 from its ImageNet weights, for a CPU or a phone.

    python train.py --config=configs/lite.py --workdir=DIR

20 epochs of CUHK at 256 pixels, 0.14 s per image on two cores: 26 minutes. configs/lite_finish.py goes on from there;
jaxdbd/weights/bundled/lite-cuhk.md says what either reached. The bundled weights had 40 (--config.epochs=40).
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The default with a small encoder, a decoder that ends at half resolution, and more augmentation."""
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
    return c
