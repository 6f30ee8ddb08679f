"""Shards to batches: reading, decoding, augmentation and batching, with Grain."""

import dataclasses
import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float16, UInt8
from PIL import Image
from tensorflow_datasets.core import constants, registered

from jaxdbd.errors import UserError
from jaxdbd.input.augment import VEILS, Augmentation, augment, paste, veil
from jaxdbd.input.geometry import View, crop_and_resize
from jaxdbd.input.shards import local_data_dir, open_builder
from jaxdbd.input.teacher_maps import PREFIX, Shapes
from jaxdbd.machine.parallel import in_turn
from jaxdbd.photographs.decoding import MOST_PIXELS

PART_SEEDS = 1_000_003  # between the seeds of two parts of a mixture: further apart than anyone's seeds
# Pixels of the longer side, choices of ours: the network sees a tenth of the first, a panel a quarter of the second.
MOST_TRAINED, MOST_SHOWN = 4096, 1024
# The flags for gray have no bit but that of the size.
REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
THREADS = 4  # that decode and augment
BATCH_PIXELS = 100_000_000  # of the masks that wait for a batch to be evaluated, choice of ours


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded photograph."""

    id: str
    image: UInt8[np.ndarray, "hi wi 3"]  # of the mask's size, or reduced
    mask: UInt8[np.ndarray, "h w"]  # 255 = in focus
    depth: Float16[np.ndarray, "hd wd"] | None  # the teacher's nearness in [0, 1] or NaN, at its own size
    valid: UInt8[np.ndarray, "h w"] | None = None  # 255 where the mask counts, 0 where it does not; None: everywhere
    features: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # the teacher's, float16 [hf, wf, c]

    def view(self, features: Collection[str] = ()) -> View:
        """What augmentation takes; the depth as float32, and those `features` that there are."""
        depth = None if self.depth is None else self.depth.astype(np.float32)
        maps = {name: self.features[name].astype(np.float32) for name in features if name in self.features}
        return View(self.image, self.mask, depth, self.valid, maps or None)


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
        builder: Any = open_builder(lambda: tfds.builder(dataset, data_dir=local), f"{dataset} in {root}")
    except registered.DatasetNotFoundError:
        name = dataset.removeprefix("dbd/")
        raise UserError(
            f"{dataset} is not built in {root}: run python data/build.py --dataset={name} (data/README.md), "
            "or say where it is with data_dir"
        ) from None
    try:
        encoded = {"image", "mask", "valid"} & builder.info.features.keys()
        return builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in encoded})
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
    name = record["id"]
    depth, valid = record.get("depth"), record.get("valid")
    return Example(
        id=name.decode() if isinstance(name, bytes) else name,
        image=decode_image(record["image"], cv2.IMREAD_COLOR_RGB | REDUCED.get(halved, 0)),
        mask=decode_image(record["mask"], cv2.IMREAD_GRAYSCALE),
        depth=None if depth is None else depth[..., 0],
        valid=None if valid is None else decode_image(valid, cv2.IMREAD_GRAYSCALE),
        features={name: value for name, value in record.items() if name.startswith(PREFIX)},
    )


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


def reduced(example: Example, side: int) -> Example:
    """An example of which photograph and mask have at most `side` pixels on their longer side."""
    scale = side / max(example.mask.shape)
    if scale >= 1:
        return example
    height, width = (max(1, round(n * scale)) for n in example.mask.shape)

    def smaller(array):
        return None if array is None else cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)

    return dataclasses.replace(
        example, image=smaller(example.image), mask=smaller(example.mask), valid=smaller(example.valid)
    )


def training_row(
    records: Sequence[dict],
    record: dict,
    size: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
    extras: Collection[str],
    features: Shapes,
) -> dict:
    """A random view of one record, over which another of `records` may be laid, sharp or blurred."""
    example = decode_reduced(record, MOST_TRAINED)
    above, lay, kind = None, paste, rng.random()
    if kind < augmentation.pasted + augmentation.veiled:
        above = decode_reduced(records[int(rng.integers(len(records)))], MOST_TRAINED).view(features)
        if kind >= augmentation.pasted:
            lay = partial(veil, radius=size * np.exp(rng.uniform(*np.log(VEILS))))
    return to_row(example.id, augment(example.view(features), size, augmentation, rng, above, lay), extras, features)


def evaluation_row(example: Example, size: int) -> dict:
    """The whole photograph, squashed to size x size."""
    return to_row(example.id, crop_and_resize(example.view(), size), {"depth"} if example.depth is not None else ())


def to_row(name: str, view: View, extras: Collection[str], features: Shapes | None = None) -> dict:
    """One row of a batch: `image` uint8 [S, S, 3], `mask` uint8 [S, S, 1], `id`; and the `extras`.

    Those are `depth` float16 [S, S, 1], NaN where it is not known, and `valid` uint8 [S, S, 1]. A view without them
    gets a depth of NaN, and is valid everywhere. The maps `features` are float16 [h, w, c], NaN where not known.
    """
    row = {"image": view.image, "mask": view.mask[..., None], "id": name}
    if "depth" in extras:
        depth = np.full(view.mask.shape, np.nan, np.float32) if view.depth is None else view.depth
        row["depth"] = np.clip(depth, 0, 1)[..., None].astype(np.float16)
    if "valid" in extras:
        valid = np.full_like(view.mask, 255) if view.valid is None else view.valid
        row["valid"] = valid[..., None]
    for key, shape in (features or {}).items():
        maps = (view.features or {}).get(key)
        row[key] = np.full(shape, np.nan, np.float16) if maps is None else maps.astype(np.float16)
    return row


def stack(rows: Sequence[dict], batch_size: int) -> dict:
    """Rows to a batch of `batch_size`: arrays stacked, `id` a list. Missing rows repeat the last one."""
    rows = [*rows, *[rows[-1]] * (batch_size - len(rows))]
    return {k: [r[k] for r in rows] if k == "id" else np.stack([r[k] for r in rows]) for k in rows[0]}


def training_batches(
    parts: Sequence[Sequence[dict]],
    *,
    size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    mixture: Sequence[float] | None = None,
    features: Shapes | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless shuffled, augmented batches of this process's share; its state can be saved and restored exactly.

    Args:
      parts: records of `open_parts`; most often one part.
      size: side of the square images.
      batch_size: rows of this process's batch (the global batch over `process_count`).
      seed: of the order and of all augmentation; row n of the stream is always the same.
      augmentation: what may happen to a photograph.
      mixture: share of each part among the rows, up to a factor; None for shares by the parts' numbers of records.
      features: the teacher's feature maps to read, as `features.shapes` has them; None for none.
      process_index: which share of the stream this process reads.
      process_count: among how many.

    Returns:
      An iterator of batches: `image` uint8 [B, S, S, 3], `mask` uint8 [B, S, S, 1], `depth` float16 [B, S, S, 1] (if
      a part has a teacher), `valid` uint8 [B, S, S, 1] (if a part has it), each of the `features` float16 [B, h, w, c],
      `id` a list.
    """
    # Rows of one batch hold the same arrays, whichever part they come from.
    extras = {name for name in ("depth", "valid") if any(name in records[0] for records in parts)}
    extras |= {"valid"} if augmentation.veiled else set()

    def rows_of(number, records):
        def row(record, rng):
            return training_row(records, record, size, augmentation, rng, extras, features or {})

        # Parts draw apart from each other; the first as it would alone.
        return grain.MapDataset.source(records).seed(seed + number * PART_SEEDS).shuffle().repeat().random_map(row)

    streams = [rows_of(number, records) for number, records in enumerate(parts)]
    shares = [float(share) for share in mixture or map(len, parts)]
    rows = streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, shares)
    rows = rows[process_index::process_count]
    batches = rows.batch(batch_size, drop_remainder=True, batch_fn=lambda r: stack(r, batch_size))
    read = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
    return iter(batches.to_iter_dataset(read))


def evaluation_batches(records: Sequence[dict], *, size: int, batch_size: int) -> Iterator[tuple[dict, list[Example]]]:
    """Every photograph once, in order, squashed to size x size; the last batch is padded.

    Yields:
      (batch, examples): the batch as `training_batches` gives it, and the decoded examples of its real rows, the
        photograph reduced to what is shown of it. A batch of large photographs has fewer real rows.
    """
    rows, examples, pixels = [], [], 0
    for i in range(len(records)):
        record = records[i]
        example = decode(record, max(image_size(record)) // MOST_TRAINED)
        rows.append(evaluation_row(reduced(example, MOST_TRAINED), size))
        pixels += example.mask.size
        examples.append(dataclasses.replace(example, image=reduced(example, MOST_SHOWN).image))
        del example
        if len(rows) == batch_size or pixels > BATCH_PIXELS:
            yield stack(rows, batch_size), examples
            rows, examples, pixels = [], [], 0
    if rows:
        yield stack(rows, batch_size), examples
