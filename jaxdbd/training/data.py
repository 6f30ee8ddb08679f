"""What a run reads: the training batches of this process, and the records that it evaluates."""

from collections.abc import Sequence
from typing import NamedTuple

import grain
import jax
import ml_collections
import numpy as np

from jaxdbd.errors import UserError
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.digest import shards_digest
from jaxdbd.input.pipeline import open_parts, training_batches
from jaxdbd.input.teacher_maps import Shapes
from jaxdbd.input.teacher_maps import shapes as feature_shapes
from jaxdbd.training.provenance import Provenance, provenance


class Data(NamedTuple):
    """What a run reads, and for how long."""

    batches: grain.DatasetIterator  # of this process's share
    held_out: dict[str, Sequence[dict]]  # records that are evaluated, by dataset; none without an eval_split
    distils: bool  # whether the loss has depth terms
    features: Shapes  # of the teacher's feature maps that the loss has terms for
    updates: int  # of the optimizer, over the whole run
    provenance: Provenance


def open_data(config: ml_collections.ConfigDict) -> Data:
    """The training batches of this process's share, and the records to evaluate.

    Raises UserError for a dataset that is not there, or one without depth or features where the loss asks for them.
    """
    parts = open_parts(config.dataset, config.train_split, config.data_dir, config.cache_dir)
    held_out = {}
    if config.eval_split:
        evaluated = open_parts(config.dataset, config.eval_split, config.data_dir, config.cache_dir)
        held_out = dict(zip(config.dataset.split("+"), evaluated, strict=True))
    distils = config.model.depth_head and config.gamma > 0
    if distils and not any("depth" in records[0] for records in parts):
        raise UserError(f"{config.dataset} was built without a teacher: build it with one, or set --config.gamma=0")
    features = feature_shapes(parts) if config.feature_weight else {}
    if config.feature_weight and not features:
        raise UserError(
            f"{config.dataset} was built without a teacher's features: build it with --teacher_features, or set "
            "--config.feature_weight=0"
        )
    if config.mixture and len(config.mixture) != len(parts):
        raise UserError(f"config.mixture: {len(config.mixture)} shares for the {len(parts)} parts of {config.dataset}")
    count = sum(map(len, parts))
    batches = training_batches(
        parts,
        size=config.size,
        batch_size=config.batch_size // config.accumulate // jax.process_count(),
        seed=config.seed,
        augmentation=Augmentation(**config.augment),
        mixture=config.mixture,
        features=features,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    updates = config.steps or max(config.epochs * count // config.batch_size, 1)
    shards = dict(zip(config.dataset.split("+"), map(shards_digest, parts), strict=True))
    return Data(batches, held_out, distils, features, updates, provenance(config.dataset, config.eval_split, shards))


def next_batch(data: Data) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that a step takes, and the ids of their images."""
    batch = next(data.batches)
    ids = batch.pop("id")
    if not data.distils:
        batch.pop("depth", None)
    return batch, ids
