"""The TFDS dataset `dbd`: photograph, focus mask and, where there is a teacher, its depth."""

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data import sources, teachers

TITLES = {name: source.title for name, source in sources.SOURCES.items()} | {"synthetic": "thin-lens renderings"}


class Dbd(tfds.core.GeneratorBasedBuilder):
    """One config per source. Images keep their own bytes; masks are 255 = in focus; depth is in [0, 1], 1 = nearest."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012, TFDS's own way
        tfds.core.BuilderConfig(name=name, description=title) for name, title in TITLES.items()
    ]

    def __init__(
        self,
        *,
        splits: dict[str, list],
        load: Callable[[object], dict],
        teacher: teachers.Settings,
        metadata: dict,
        cache: Path | None,
        **kwargs,
    ):
        """`splits` maps a split to what `load` turns into records; `metadata` is written beside the shards."""
        self._splits, self._load, self._teacher, self._cache = splits, load, teacher, cache
        self._metadata = metadata
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
        if self._teacher.spec != "none":
            features["depth"] = tfds.features.Tensor(shape=(None, None, 1), dtype=np.float16, encoding="zlib")
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Defocus blur detection: {TITLES[self.builder_config.name]}.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._metadata),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterable]:
        return {split: self._generate_examples(items, split) for split, items in self._splits.items()}

    def _generate_examples(self, items: list, split: str) -> Iterator[tuple[str, dict]]:
        teacher = teachers.open_teacher(self._teacher)
        loaded = parallel_map(self._load, items)
        with tqdm(total=len(items), desc=f"building {split}", unit=" images") as bar:
            while batch := list(itertools.islice(loaded, teachers.BATCH)):
                yield from examples(batch, teacher, self._cache)
                bar.update(len(batch))


def examples(records: list[dict], teacher: teachers.Teacher | None, cache: Path | None) -> list[tuple[str, dict]]:
    """Loaded records, with the teacher's depth, as (key, example) of the dataset."""
    out = [{"id": r["id"], "image": r["image"], "mask": r["mask"]} for r in records]
    if teacher is not None:
        for example, depth in zip(out, teachers.nearness(teacher, records, cache), strict=True):
            example["depth"] = depth[..., None]
    return [(example["id"], example) for example in out]


def parallel_map(function: Callable, items: Iterable) -> Iterator:
    """`map` on a process per core, in order, with a bounded number of results waiting."""
    workers = os.cpu_count() or 1
    # Spawned, since forking a process in which TFDS and ONNX Runtime run threads can hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
