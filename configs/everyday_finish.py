"""The second stage of the everyday training, at half the rate; configs/everyday.py has the commands."""

import ml_collections

from configs import everyday


def get_config() -> ml_collections.ConfigDict:
    """The everyday config for another 800 steps."""
    c = everyday.get_config()
    c.encoder_init = ""  # --config.init_from has all of the network
    c.steps = 800
    c.learning_rate = 5e-4
    c.warmup_steps = 50
    c.augment.shrunk = 0.3
    c.eval_every = 400
    return c
