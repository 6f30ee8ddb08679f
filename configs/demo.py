"""Small and synthetic: rendered scenes whose depth is known, minutes on a CPU.

make demo
"""

import ml_collections

from configs import lite


def get_config() -> ml_collections.ConfigDict:
    """The lite config at 192 pixels on rendered scenes."""
    c = lite.get_config()
    c.dataset = "dbd/synthetic"
    c.train_split = "train"
    c.eval_split = ""
    c.size = 192
    c.epochs = 8
    c.license = "Trained on rendered scenes; Apache-2.0"
    return c
