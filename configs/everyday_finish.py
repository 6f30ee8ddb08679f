"""The end of the everyday training, at the size that is shipped; configs/everyday.py has the commands."""

import ml_collections

from configs import everyday


def get_config() -> ml_collections.ConfigDict:
    """The everyday config at 640 pixels, for a few hundred steps at a lower rate on gentler augmentation."""
    c = everyday.get_config()
    c.encoder_init = ""  # --config.init_from has all of the network
    c.size = 640
    c.steps = 400
    c.learning_rate = 3e-4
    c.warmup_steps = 50
    c.ema_decay = 0.99
    c.augment.min_area = 0.5
    c.eval_every = 200
    return c
