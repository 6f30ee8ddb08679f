"""For photographs as people take them: half CUHK, half refocused photographs; the weights `lite`.

    python train.py --config=configs/everyday.py --workdir=DIR
    python train.py --config=configs/everyday_finish.py --workdir=DIR2 --config.init_from=DIR/weights.safetensors
    python -m tools.calibrate --weights DIR DIR2 --out=FILE --data_dir=DIR3 --size=640

data/README.md says how `refocused` is built, jaxdbd/weights/bundled/lite.md what came of it.
"""

import ml_collections

from configs import lite


def get_config() -> ml_collections.ConfigDict:
    """The lite config on two datasets, with depth, and an encoder that reads photographs at twice the size."""
    c = lite.get_config()
    c.dataset = "dbd/cuhk+dbd/refocused"
    c.mixture = (0.5, 0.5)
    c.train_split = "train[60:]+train"
    c.eval_split = "train[:60]+test[:60]"
    c.encoder = "lite0_2x"
    c.size = 512
    c.steps = 1800
    c.gamma = 0.5
    c.depth_loss = "midas"  # a random crop does not tell the scale of a depth that is stretched over the photograph
    c.augment.sharp = 0.15
    c.augment.tiled = 0.05
    c.augment.sky = 0.3
    c.eval_every = 600
    c.license = "Trained on CUHK and BSDS500, which are for research use"
    return c
