r"""Depth for the weights `lite-cuhk`: ten epochs of CUHK with a teacher's depth, after configs/lite_finish.py.

    python train.py --config=configs/lite_depth.py --workdir=DIR3 --config.init_from=DIR2/weights.safetensors
    python train.py --config=configs/lite_depth.py --workdir=DIR4 --config.init_from=DIR2/weights.safetensors \
        --config.seed=1
    python -m tools.calibrate --weights DIR2 DIR3 DIR4 --shares 0.3 0.3 0.4 --shift=0.5 --size=352 --data_dir=DIR \
        --dataset=dbd/cuhk --split='train[:60]' --out=FILE

19 to 32 minutes each on two cores. Learning depth costs some of the focus, which comes back when the weights are
averaged with those before: jaxdbd/weights/bundled/lite-cuhk.md has the figures.
"""

import ml_collections

from configs import lite_finish


def get_config() -> ml_collections.ConfigDict:
    """The end of the lite training once more, with twice the weight on a depth whose scale and shift are free."""
    c = lite_finish.get_config()
    c.epochs = 10
    c.learning_rate = 4e-4
    c.gamma = 0.2
    c.depth_loss = "midas"  # a random crop does not tell the scale of a depth that is stretched over the photograph
    c.augment.min_area = 0.4
    c.augment.sky = 0.4
    c.augment.shrunk = 0.1
    c.augment.gray = 0.1
    c.augment.veiled = 0.05
    c.eval_every = 340  # five epochs
    c.checkpoint_every = 170
    return c
