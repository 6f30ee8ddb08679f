"""The second stage of the everyday training: more refocused photographs and skies, at half the rate.

configs/everyday.py has the commands.
"""

import ml_collections

from configs import everyday


def get_config() -> ml_collections.ConfigDict:
    """The everyday config for another 480 steps, from weights that --config.init_from names."""
    c = everyday.get_config()
    c.init_from = ""
    c.mixture = (0.3, 0.6, 0.1)
    c.steps = 480
    c.learning_rate = 3e-4
    c.warmup_steps = 30
    c.ema_decay = 0.99
    c.augment.sharp = 0.1
    c.augment.tiled = 0.1
    c.augment.sky = 0.6
    c.augment.refocused = 0.15
    c.augment.pasted = 0.15
    c.augment.veiled = 0.05
    c.eval_every = 480
    c.checkpoint_every = 120
    return c
