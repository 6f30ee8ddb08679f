"""The end of the Lite2 training: 6 epochs at 320 pixels on gentler augmentation, 15 minutes of two cores.

configs/lite2.py has the commands.
"""

import ml_collections

from configs import lite2, lite_finish


def get_config() -> ml_collections.ConfigDict:
    """configs/lite_finish.py for the encoder and the depth of configs/lite2.py."""
    first = lite2.get_config()
    c = lite_finish.get_config()
    c.encoder = first.encoder
    c.gamma, c.depth_loss = first.gamma, first.depth_loss
    c.learning_rate = 3e-4
    c.augment.sky = 0.4
    c.augment.shrunk = 0.1
    c.augment.gray = 0.1
    c.augment.veiled = 0.05
    c.checkpoint_every = 136
    return c
