"""A network that compiles in seconds, for tests that train; run as a script it is train.py with that network.

    python tests/tiny.py --workdir=DIR --config.data_dir=DIR [--config.field=value ...]

Everything but the encoder is what users run: the encoder is five convolutions instead of fifty.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from configs import lite  # noqa: E402
from jaxdbd.network.encoders import CENTERED, ENCODERS, ConvNorm, EncoderSpec  # noqa: E402

NAME, CHANNELS = "tiny", (8, 16, 32, 64, 128)


class TinyEncoder(nn.Module):
    """Five strided convolutions with BatchNorm, one tap each."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        taps = []
        for i, width in enumerate(CHANNELS):
            x = nn.relu(ConvNorm(width, 3, 2, dtype=self.dtype, name=f"stage{i + 1}")(x, train))
            taps.append(x)
        return tuple(taps)


ENCODERS[NAME] = EncoderSpec(TinyEncoder, CHANNELS, **CENTERED, decoder_widths=(16, 16, 16, 16, 16))


def get_config() -> ml_collections.ConfigDict:
    """The lite config with the tiny encoder at 64 pixels, for 20 steps of 8 rendered scenes."""
    c = lite.get_config()
    c.encoder, c.encoder_init = "tiny", ""
    c.model.srfb = "none"
    c.dataset, c.train_split, c.eval_split = "dbd/synthetic", "train", "test"
    c.size, c.batch_size, c.eval_batch_size, c.steps = 64, 8, 8, 20
    # Low enough for roundings to stay roundings: at the lite config's rate, one part in 10^7 of the initial weights
    # grows to one in 100 of the loss within 20 steps, on one device.
    c.learning_rate = 2e-6
    c.warmup_steps, c.log_every, c.eval_every, c.checkpoint_every = 2, 1, 10, 4
    return c


if __name__ == "__main__":
    import train
    from jaxdbd.machine import startup

    # A process that is alone knows it after twenty seconds instead of a hundred.
    jax.distributed.initialize = partial(jax.distributed.initialize, heartbeat_timeout_seconds=20)
    sys.argv.insert(1, f"--config={__file__}")
    startup.leave(train.main())
