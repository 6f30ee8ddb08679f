"""What a run reads: the batches that it trains on, and the records that it evaluates."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ml_collections
from jax.sharding import Mesh

from jaxdbd.errors import UserError
from jaxdbd.input.augment import Augmentation
from jaxdbd.input.batches import Batch, Numbers, batches
from jaxdbd.input.placement import Placed, place
from jaxdbd.input.records import open_parts
from jaxdbd.input.resident import longest_side
from jaxdbd.input.shards import shards_digest
from jaxdbd.input.stream import Stream, make_stream
from jaxdbd.machine.parallel import cores
from jaxdbd.training.distillation import Shapes, feature_shapes
from jaxdbd.training.provenance import Provenance, provenance


class Data(NamedTuple):
    """What a run reads, and for how long."""

    placed: Placed  # the photographs
    stream: Stream  # the order of its rows
    held_out: dict[str, Sequence[dict]]  # records that are evaluated, by dataset; none without an eval_split
    features: Shapes  # of the teacher's feature maps that the loss has terms for
    updates: int  # of the optimizer, over the whole run
    provenance: Provenance


def open_data(config: ml_collections.ConfigDict) -> Data:
    """The photographs to train on and their order, and the records to evaluate.

    Raises UserError for a dataset that is not there, or without depth, features or blur where the loss asks for them.
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
    if config.blur_weight and not any("blur" in records[0] for records in parts):
        raise UserError(
            f"{config.dataset} does not know how blurred anything is: add a set that does, such as dbd/refocused built "
            "by this version, or set --config.blur_weight=0"
        )
    maps = [*(["depth"] if distils else []), *(["blur"] if config.blur_weight else []), *features]
    placed = place(parts, longest_side(config.size), maps, config.photographs)
    counts = [len(records) for records in parts]
    updates = config.steps or max(config.epochs * sum(counts) // config.batch_size, 1)
    shards = dict(zip(config.dataset.split("+"), map(shards_digest, parts), strict=True))
    origin = provenance(config.dataset, config.eval_split, shards)
    return Data(placed, make_stream(counts, config.mixture, config.seed), held_out, features, updates, origin)


def batches_from(
    data: Data, first: int, config: ml_collections.ConfigDict, mesh: Mesh
) -> Iterator[tuple[Batch, Numbers]]:
    """The batches of a run from its row `first` on, each with the numbers of this process's photographs in it."""
    return batches(
        data.placed,
        data.stream,
        first=first,
        size=config.size,
        augmentation=Augmentation(**config.augment),
        batch_size=config.batch_size // config.accumulate,
        mesh=mesh,
        workers=config.input_workers or cores(),
    )
