"""The paper's sweep over gamma, the weight of the depth terms.

    python train.py --config=configs/gamma.py:0.1 --workdir=DIR
    python sweep.py --config=configs/gamma.py --workdir=DIR     all five, one after another

The paper finds a valley at 0.1. Lite0 instead of VGG19: add --config.encoder=lite0, or use the runs of ablation.py.
"""

import ml_collections

from configs import default
from jaxdbd.training.config import pick_run

RUNS = {name: {"gamma": float(name)} for name in ("0.01", "0.05", "0.1", "1", "5")}


def get_config(name: str = "") -> ml_collections.ConfigDict:
    """The default config with one of the five values."""
    c = default.get_config()
    c.update_from_flattened_dict(pick_run(RUNS, name))
    return c
