"""The end of the Lite2 training: 6 epochs at 320 pixels on gentler augmentation, 15 minutes of two cores.

configs/lite2.py has the commands.
"""

import ml_collections

from configs import lite_depth


def get_config() -> ml_collections.ConfigDict:
    """configs/lite_depth.py for Lite2: fewer epochs at a lower rate, on larger crops."""
    c = lite_depth.get_config()
    c.encoder = "lite2"
    c.epochs = 6
    c.learning_rate = 3e-4
    c.augment.min_area = 0.5
    c.eval_every = c.checkpoint_every = 136  # two epochs
    return c
