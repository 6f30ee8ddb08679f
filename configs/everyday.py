r"""For photographs as people take them: CUHK, refocused photographs and rendered scenes; the weights `lite`.

    python train.py --config=configs/everyday.py --workdir=DIR
    python -m tools.calibrate --weights lite-cuhk DIR --shares 0.3 0.7 --shift=0 --data_dir=DIR2 --out=FILE
    python train.py --config=configs/everyday_finish.py --workdir=DIR3 --config.init_from=FILE
    python -m tools.calibrate --weights lite-cuhk DIR3 --shares 0.15 0.85 --shift=0.5 --size=352 --data_dir=DIR2 \
        --out=FILE2

The bundled weights are .7 of what this gives and .3 of what it gives with --config.seed=1 in both trainings:

    python -m tools.calibrate --weights FILE2 FILE3 --shares 0.7 0.3 --shift=0 --size=352 --data_dir=DIR2 --out=FILE4

Goes on from the bundled `lite-cuhk`, 0.27 s per image on two cores. What training on more than CUHK forgets comes back
when the weights are averaged with those it went on from. jaxdbd/weights/bundled/lite.md says how the datasets are
built, and what came of it.
"""

import ml_collections

from configs import lite_finish


def get_config() -> ml_collections.ConfigDict:
    """The end of the lite training on three datasets, with depth, and with what undoes the habits of CUHK."""
    c = lite_finish.get_config()
    c.dataset = "dbd/cuhk+dbd/refocused+dbd/synthetic"
    c.mixture = (0.45, 0.35, 0.2)
    c.train_split = "train[60:]+train+train"
    c.eval_split = "train[:60]+test[:60]+test"
    c.init_from = "lite-cuhk"
    c.steps = 1500
    c.learning_rate = 6e-4
    c.warmup_steps = 100
    c.ema_decay = 0.998
    c.gamma = 0.2
    c.depth_loss = "midas"  # a random crop does not tell the scale of a depth that is stretched over the photograph
    c.augment.min_area = 0.4
    c.augment.tiled = 0.15
    c.augment.sky = 0.4
    c.augment.blurred = 0.08
    c.augment.refocused = 0.2
    c.augment.pasted = 0.2
    c.augment.veiled = 0.15
    c.augment.shrunk = 0.2
    c.augment.gray = 0.1
    c.eval_every = 400
    c.checkpoint_every = 200
    c.license = "Trained on CUHK and BSDS500, which are for research use"
    return c
