"""Records of a built dataset, of which those that cannot be read name their shard, and how to get it back."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from jaxdbd.errors import LFS_START, UserError, refuse_lfs_pointer
from jaxdbd.machine.transfer import RECORD


@dataclasses.dataclass(frozen=True)
class Records(Sequence[dict]):
    """What TFDS reads of a split. Raises UserError for a record whose bytes are not those that were written."""

    source: Any

    @property
    def dataset_info(self) -> Any:
        """TFDS's notes on the whole dataset."""
        return self.source.dataset_info

    @property
    def split(self) -> Any:
        """Which split it is, or which part of one."""
        return self.source.split

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.source[index]
        except RuntimeError as error:  # of a checksum; it names no file
            for split in self.dataset_info.splits.values():
                for path in split.filepaths:
                    check_shard(path)
            raise error


def check_shard(path: str | os.PathLike, records: int | None = None, whole: bool = True) -> None:
    """Raises UserError for a shard that is missing, cut short, has not so many `records`, or was changed since.

    Without `whole` only its ends are looked at.
    """
    again = how_to_get_back(Path(path))
    if not os.path.exists(path):
        raise UserError(f"{path}: this shard is missing: {again}")
    with open(path, "rb") as file:
        refuse_lfs_pointer(path, file.read(len(LFS_START)))
    # The reader would take one that was cut short for an empty one.
    shard = ArrayRecordReader(os.fspath(path))
    if not shard.ok() or records not in (None, shard.num_records()):
        raise UserError(f"{path}: this shard is damaged: {again}")
    for i in range(shard.num_records() if whole else 0):
        try:
            shard.read([i])
        except RuntimeError as error:
            reason = str(error).partition(" (")[0]
            raise UserError(f"{path}: record {i} of this shard is damaged ({reason}): {again}") from None
    shard.close()


def how_to_get_back(path: Path) -> str:
    """What to do about a damaged shard: it is a copy of one in a store, or must be built again."""
    if (path.parents[1] / RECORD).exists():
        return "delete it, and the next start copies it from the store again"
    return "build the dataset again with --overwrite"
