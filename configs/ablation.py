"""Ablations: what each part of the network and the teacher's depth are worth.

    python train.py --config=configs/ablation.py:no_sab --workdir=DIR
    python sweep.py --config=configs/ablation.py --runs='small*,scene*' --seeds=0,1,2 --workdir=DIR

The first group is the paper's, at the paper's size (configs/default.py). The second is for a CPU: Lite0 at 192 pixels
for 3 epochs, four minutes a run on one core. It asks whether distillation helps (no depth, then gamma 0.01, 0.1, 1)
and climbs the paper's ladder: small_plain, small_depth, small_srfb, and small, which has the SAB as well. The third is
its control: the same on rendered scenes, with the scene's own depth for a teacher that is never wrong.
"""

import ml_collections

from configs import default, demo, lite
from jaxdbd.training.config import pick_run

NO_DEPTH = {"model.depth_head": False, "gamma": 0.0}
PAPER = {
    "full": {},
    "no_depth": NO_DEPTH,
    "no_srfb": {"model.srfb": "none"},
    "no_srfb_select": {"model.srfb_select": False},
    "no_sab": {"model.sab": False},
    "parallel": {"model.srfb": "parallel"},
}
SMALL = {
    "small": {},
    "small_no_depth": NO_DEPTH,
    "small_gamma_0.01": {"gamma": 0.01},
    "small_gamma_1": {"gamma": 1.0},
    "small_plain": {**NO_DEPTH, "model.srfb": "none", "model.sab": False},
    "small_depth": {"model.srfb": "none", "model.sab": False},
    "small_srfb": {"model.sab": False},
}
SCENE = {
    "scene": {},
    "scene_no_depth": NO_DEPTH,
    "scene_gamma_1": {"gamma": 1.0},
}
RUNS = PAPER | SMALL | SCENE


def get_config(name: str = "") -> ml_collections.ConfigDict:
    """The default config, or the lite or demo one on a small budget, with one run's changes."""
    changes = pick_run(RUNS, name)
    if name in SMALL:
        c = lite.get_config()
    elif name in SCENE:
        c = demo.get_config()
        c.eval_split = "test"  # scenes can be had without end: there is nothing to save up
    else:
        c = default.get_config()
    if name in SMALL | SCENE:
        c.size, c.epochs = 192, 3
        c.warmup_steps, c.ema_decay = 50, 0.99  # shorter, as the run is
        c.eval_every = 10**6  # at the end only: choosing the best of several would flatter every run
        c.checkpoint_every = 200
    c.update_from_flattened_dict(changes)
    return c
