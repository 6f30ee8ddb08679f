r"""For photographs as people take them: CUHK, refocused photographs, scenes, pairs; the stages of the weights `lite`.

    python train.py --config=configs/everyday.py --workdir=DIR
    python -m tools.calibrate --weights lite-cuhk DIR --shares 0.3 0.7 --shift=0 --data_dir=DIR2 --out=FILE
    python train.py --config=configs/everyday.py:finish --workdir=DIR3 --config.init_from=FILE
    python -m tools.calibrate --weights lite-cuhk DIR3 --shares 0.15 0.85 --size=352 --data_dir=DIR2 --out=FILE2

The first training goes on from the bundled `lite-cuhk`, at 0.3 s per image on two cores. `finish` learns with the blur
head, too, from more refocused photographs and skies, at half the learning rate. What training on more than CUHK forgets
comes back when the weights are averaged with those it began with. jaxdbd/weights/bundled/lite.md says how the datasets
are built, and what came of it.
"""

import ml_collections

from configs import lite
from jaxdbd.training.config import pick_run

RUNS = {
    "first": {},
    "finish": {
        "init_from": "",  # --config.init_from names the weights of the first stage
        "mixture": (0.3, 0.48, 0.06, 0.16),
        "blur_weight": 1.0,
        "steps": 480,
        "learning_rate": 3e-4,
        "warmup_steps": 30,
        "ema_decay": 0.99,
        "augment.sharp": 0.1,
        "augment.tiled": 0.1,
        "augment.sky": 0.6,
        "augment.refocused": 0.15,
        "augment.pasted": 0.15,
        "augment.veiled": 0.05,
        "eval_every": 480,
        "checkpoint_every": 120,
    },
}


def get_config(name: str = "first") -> ml_collections.ConfigDict:
    """The end of the lite training on four datasets, with depth, and with what undoes the habits of CUHK."""
    changes = pick_run(RUNS, name)
    c = lite.get_config("depth")
    c.dataset = "dbd/cuhk+dbd/refocused+dbd/synthetic+dbd/pairs"
    c.mixture = (0.4, 0.36, 0.1, 0.14)
    c.train_split = "train[60:]+train+train+train"
    c.eval_split = "train[:60]+test[:60]+test+test"
    c.init_from = "lite-cuhk"
    c.steps = 1500
    c.learning_rate = 6e-4
    c.warmup_steps = 100
    c.ema_decay = 0.998
    c.augment.tiled = 0.15
    c.augment.blurred = 0.08
    c.augment.refocused = 0.2
    c.augment.veiled = 0.15
    c.augment.shrunk = 0.2
    c.eval_every = 400
    c.checkpoint_every = 200
    c.license = "Trained on CUHK, BSDS500 and other photographs that are for research use"
    c.update_from_flattened_dict(changes)
    return c
