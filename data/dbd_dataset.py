"""The TFDS dataset `dbd`: photograph, focus mask and, where there is a teacher, its depth.

Items become examples in three steps: `load` reads or renders a record, the teacher labels batches of records with their
nearness, and, for photographs refocused through that nearness, `render` makes the example of both.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered, writer
from tensorflow_datasets.proto import tf_example_pb2

from data import sources, teachers
from jaxdbd.input.records import FEATURES
from jaxdbd.machine.parallel import parallel_map

TITLES = {name: source.title for name, source in sources.SOURCES.items()} | {
    "synthetic": "thin-lens renderings",
    "refocused": sources.REFOCUSED.title,
    "pairs": sources.PAIRS.title,
}
RENDERED = ("synthetic", "refocused")  # of these it is known how blurred each pixel is
# A record, with the teacher's features if it has some; and its nearness, float16 [h, w], None without a teacher.
Labeled = tuple[dict, np.ndarray | None]


class DeterministicWriter(writer.ExampleWriter):
    """Puts the fields of every example in order, which protocol buffers by themselves leave to chance."""

    def write(self, path, examples):
        """See `ExampleWriter.write`."""
        return super().write(path, ((key, _in_order(serialized)) for key, serialized in examples))


def _in_order(serialized: bytes) -> bytes:
    # Protocol buffers make their classes at run time, where no type checker sees them.
    example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
    return example.FromString(serialized).SerializeToString(deterministic=True)


# Not registered with TFDS: readers go by the files alone, and this class has nothing to read with.
with registered.skip_registration():

    class Dbd(tfds.core.GeneratorBasedBuilder):
        """One config per source. Images keep their bytes; masks: 255 = in focus; depth: 0 to 1, 1 = nearest.

        `features_8` and the like are the teacher's own at that stride.

        Where masks are rendered or come of comparing, `valid` is 255 where the mask is certain and 0 elsewhere.
        """

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [  # noqa: RUF012, TFDS's own way
            tfds.core.BuilderConfig(name=name, description=title) for name, title in TITLES.items()
        ]

        def __init__(
            self,
            *,
            splits: dict[str, list],
            load: Callable[..., dict],
            teacher: teachers.Settings,
            metadata: dict,
            cache: Path,
            beam: bool,
            masks_have_gaps: bool = False,
            render: Callable[[Any], dict] | None = None,
            **kwargs,
        ):
            """`splits` maps a split to what `load` turns into records; `metadata` is written beside the shards.

            With `masks_have_gaps` each example has a `valid`. `render`, if given, turns a record and its nearness into
            the example; it runs on all cores.
            """
            self._splits, self._load, self._teacher, self._cache, self._beam = splits, load, teacher, cache, beam
            self._metadata, self._masks_have_gaps, self._render = metadata, masks_have_gaps, render
            super().__init__(**kwargs)

        def _info(self) -> tfds.core.DatasetInfo:
            config = cast(tfds.core.BuilderConfig, self.builder_config)
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
            if self._masks_have_gaps:
                features["valid"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
            if config.name in RENDERED:
                features["blur"] = tfds.features.Tensor(shape=(None, None, 1), dtype=np.float16, encoding="zlib")
            if self._teacher.spec != "none":
                features["depth"] = tfds.features.Tensor(shape=(None, None, 1), dtype=np.float16, encoding="zlib")
            teacher = teachers.open_teacher(self._teacher)
            for name, shape in teacher.feature_shapes().items() if teacher else ():
                features[name] = tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="zlib")
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Defocus blur detection: {TITLES[config.name]}.",
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(self._metadata),
            )

        def _log_download_bytes(self) -> None:
            """Silent: TFDS would announce a download, and there is none."""

        def _log_download_done(self) -> None:
            """Silent as well; `build.py` says what was built."""

        def _example_writer(self) -> writer.ExampleWriter:
            return DeterministicWriter(cast(tfds.core.FileFormat, self.info.file_format))

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
            if self._beam:
                return {split: self._beam_examples(items) for split, items in self._splits.items()}
            return {split: self._generate_examples(items, split) for split, items in self._splits.items()}

        def _generate_examples(self, items: list, split: str) -> Iterator[tuple[str, dict]]:
            work = f"building {split}"
            if self._render is None:
                loaded = parallel_map(self._load, items, work)
                made = map(example, label(loaded, self._teacher, self._cache))
            else:  # loading is quick here; the processes are for the rendering
                labeled = label(map(self._load, items), self._teacher, self._cache)
                made = parallel_map(self._render, labeled, work, len(items))
            yield from map(keyed, made)

        def _beam_examples(self, items: list):
            import apache_beam as beam  # pyright: ignore[reportMissingImports]  # an extra

            batches = [items[i : i + teachers.BATCH] for i in range(0, len(items), teachers.BATCH)]
            make = self._render or example
            work = partial(make_examples, load=self._load, teacher=self._teacher, cache=self._cache, make=make)
            return beam.Create(batches) | beam.Reshuffle() | "load and label" >> beam.FlatMap(work)


def make_examples(
    items: list, load: Callable[..., dict], teacher: teachers.Settings, cache: Path, make: Callable[[Labeled], dict]
) -> list[tuple[str, dict]]:
    """What one Beam worker does at a time: a batch of items to (key, example) of the dataset."""
    return [keyed(make(labeled)) for labeled in label(map(load, items), teacher, cache)]


def label(records: Iterable[dict], teacher: teachers.Settings, cache: Path) -> Iterator[Labeled]:
    """Loaded records with the features and the nearness that the teacher gives them, batch by batch."""
    opened, records = teachers.open_teacher(teacher), iter(records)
    while batch := list(itertools.islice(records, teachers.BATCH)):
        if opened is None:
            yield from ((record, None) for record in batch)
            continue
        depths, maps = teachers.nearness(opened, batch, cache), teachers.feature_maps(opened, batch, cache)
        yield from ((record | found, depth) for record, found, depth in zip(batch, maps, depths, strict=True))


def example(labeled: Labeled) -> dict:
    """The example of a record that has its image and mask, and perhaps its `valid`, already."""
    record, depth = labeled
    kept = ("id", "image", "mask", "valid", "blur")
    out = {name: record[name] for name in record if name in kept or name.startswith(FEATURES)}
    return out if depth is None else out | {"depth": depth[..., None]}


def keyed(made: dict) -> tuple[str, dict]:
    """An example with the key that TFDS wants."""
    return made["id"], made
