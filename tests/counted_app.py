"""`jaxdbd app` with brightness in the network's place: focus is brightness, depth redness, blur a tenth of it.

    python tests/counted_app.py FILE --weights=W --port=N

Each run of this network adds a byte to FILE.
"""

import sys
from pathlib import Path

import numpy as np

from jaxdbd import inference
from jaxdbd.__main__ import main


def compiled(model):
    """In place of `inference.compiled`."""

    def network(variables, images):
        with Path(sys.argv[1]).open("ab") as count:
            count.write(b"." * len(images))
        red = images[..., 0] / np.float32(255)
        return inference.SquareMaps(images.mean(axis=-1, dtype=np.float32) / 255, red, red / 10)

    return network


if __name__ == "__main__":
    inference.compiled = compiled
    sys.exit(main(["app", *sys.argv[2:]]))
