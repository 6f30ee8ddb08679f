"""Records of a built dataset: opened by name and split, decoded one by one, and in batches for evaluation."""

import dataclasses
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float16, UInt8
from PIL import Image
from tensorflow_datasets.core import constants, registered

from jaxdbd.errors import UserError
from jaxdbd.input.geometry import to_square
from jaxdbd.input.shards import Records, local_data_dir, open_builder
from jaxdbd.machine.parallel import in_turn
from jaxdbd.photographs.decoding import MOST_PIXELS

FEATURES = "features_"  # and the stride: the name of a map of the teacher's features in the shards and in batches
# The flags for gray have no bit but that of the size.
REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
# Pixels of the longer side, choices of ours: the network sees a tenth of the first, a panel a quarter of the second.
MOST_SEEN, MOST_SHOWN = 4096, 1024
BATCH_PIXELS = 100_000_000  # of the masks that wait for a batch to be evaluated, choice of ours


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded photograph."""

    id: str
    image: UInt8[np.ndarray, "hi wi 3"]  # of the mask's size, or reduced
    mask: UInt8[np.ndarray, "h w"]  # 255 = in focus
    depth: Float16[np.ndarray, "hd wd"] | None  # the teacher's nearness in [0, 1] or NaN, at its own size
    valid: UInt8[np.ndarray, "h w"] | None = None  # 255 where the mask counts, 0 where it does not; None: everywhere
    # Diameter of the circle of confusion, a share of the longer side, or NaN, at its own size.
    blur: Float16[np.ndarray, "hb wb"] | None = None
    features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # the teacher's, float16 [hf, wf, c]


def open_parts(
    dataset: str, split: str, data_dir: str | os.PathLike | None = None, cache_dir: str = ""
) -> list[Sequence[dict]]:
    """`open_split` of each part of a mixture such as 'dbd/cuhk+dbd/refocused', in its order.

    `split` is one for all parts, or one for each with `+` between. Raises UserError where their numbers differ.
    """
    names = dataset.split("+")
    splits = split.split("+") if len(names) > 1 else [split]  # within one dataset, TFDS gives + another meaning
    if len(splits) not in (1, len(names)):
        raise UserError(
            f"{dataset} has {len(names)} parts and {split!r} {len(splits)}: give one split, or one for each"
        )
    return [open_split(name, splits[i % len(splits)], data_dir, cache_dir) for i, name in enumerate(names)]


def open_split(
    dataset: str, split: str, data_dir: str | os.PathLike | None = None, cache_dir: str = ""
) -> Sequence[dict]:
    """Random access to a built dataset's records: `id`, `image`, `mask`, the last two encoded, and what else it has.

    Args:
      dataset: such as 'dbd/cuhk'.
      split: a split of it, sliced as TFDS does: 'train[:90%]'.
      data_dir: where the shards were built, local or in a store; empty or None for TFDS's default folder.
      cache_dir: where shards of a store are copied to first; empty for jaxdbd's folder in the user's cache.

    Raises:
      UserError: where the dataset has not been built, or has no such split, or cannot be copied.
    """
    root = data_dir or constants.DATA_DIR
    try:
        local = local_data_dir(dataset, root, cache_dir)
        # Its annotations say less than it can do.
        folder = local / dataset.partition(":")[0]
        builder: Any = open_builder(lambda: tfds.builder(dataset, data_dir=local), f"{dataset} in {root}", folder)
    except registered.DatasetNotFoundError:
        name = dataset.removeprefix("dbd/")
        raise UserError(
            f"{dataset} is not built in {root}: run python data/build.py --dataset={name} (data/README.md), "
            "or say where it is with data_dir"
        ) from None
    try:
        encoded = {"image", "mask", "valid"} & builder.info.features.keys()
        return Records(builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in encoded}))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{dataset} in {root} cannot give split {split!r}: {reason}") from None


def decode_image(data: bytes, mode: int) -> UInt8[np.ndarray, "h w *c"]:
    """Decodes a JPEG or PNG; with the pixels that Pillow gives, but faster. Raises ValueError where it cannot."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("a record of the dataset holds an image that does not decode: build the dataset again")
    return image


def decode(record: dict, reduction: int = 1) -> Example:
    """Decodes one record of `open_split`; its photograph reduced by 2, 4 or 8, by the most that `reduction` reaches."""
    halved = max((factor for factor in REDUCED if factor <= reduction), default=1)
    depth, valid, blur = record.get("depth"), record.get("valid"), record.get("blur")
    return Example(
        id=name_of(record),
        image=decode_image(record["image"], cv2.IMREAD_COLOR_RGB | REDUCED.get(halved, 0)),
        mask=decode_image(record["mask"], cv2.IMREAD_GRAYSCALE),
        depth=None if depth is None else depth[..., 0],
        valid=None if valid is None else decode_image(valid, cv2.IMREAD_GRAYSCALE),
        blur=None if blur is None else blur[..., 0],
        features={name: value for name, value in record.items() if name.startswith(FEATURES)},
    )


def name_of(record: dict) -> str:
    """The id of a record's photograph."""
    name = record["id"]
    return name.decode() if isinstance(name, bytes) else name


def decode_reduced(record: dict, side: int) -> Example:
    """`decode`, with photograph and mask reduced where they are larger than `side`; large ones one at a time.

    A JPEG far larger than `side` is decoded at a half, a quarter or an eighth of its size, and reduced from there.
    """
    width, height = image_size(record)
    with in_turn(width * height):
        return reduced(decode(record, max(width, height) // side), side)


def image_size(record: dict) -> tuple[int, int]:
    """Width and height of a record's photograph, which is not decoded."""
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow's own limit is lower than what is built
    with Image.open(io.BytesIO(record["image"])) as header:
        return header.size


def reduced_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Two sides, or smaller ones of the same proportions, of which the longer has at most `side` pixels."""
    scale = min(side / max(size), 1)
    one, other = (max(1, round(n * scale)) for n in size)
    return one, other


def reduced(example: Example, side: int) -> Example:
    """An example of which photograph and mask have at most `side` pixels on their longer side."""
    height, width = reduced_size(example.mask.shape, side)
    if (height, width) == example.mask.shape:
        return example

    def smaller(array):
        return None if array is None else cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)

    return dataclasses.replace(
        example, image=smaller(example.image), mask=smaller(example.mask), valid=smaller(example.valid)
    )


def evaluation_batches(
    records: Sequence[dict], *, size: int, batch_size: int
) -> Iterator[tuple[UInt8[np.ndarray, "b s s 3"], list[Example]]]:
    """Every photograph once, in order, squashed to size x size; the last batch is padded.

    Yields:
      (images, examples): a batch of `batch_size`, and the decoded examples of its real rows, the photograph reduced to
        what is shown of it. A batch of large photographs has fewer real rows.
    """
    squares, examples, pixels = [], [], 0
    for i in range(len(records)):
        record = records[i]
        example = decode(record, max(image_size(record)) // MOST_SEEN)
        squares.append(to_square(reduced(example, MOST_SEEN).image, size))
        pixels += example.mask.size
        examples.append(dataclasses.replace(example, image=reduced(example, MOST_SHOWN).image))
        del example
        if len(squares) == batch_size or pixels > BATCH_PIXELS:
            yield padded(squares, batch_size), examples
            squares, examples, pixels = [], [], 0
    if squares:
        yield padded(squares, batch_size), examples


def padded(squares: list[UInt8[np.ndarray, "s s 3"]], batch_size: int) -> UInt8[np.ndarray, "b s s 3"]:
    """A batch of `batch_size` whose missing rows repeat the last one."""
    return np.stack([*squares, *[squares[-1]] * (batch_size - len(squares))])
