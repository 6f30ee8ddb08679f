"""A flipped byte in a shard: one line that names it, and says how to get it back."""

import json
import random
import shutil

import numpy as np
import pytest

from data import build
from jaxdbd.errors import UserError
from jaxdbd.input.placement import place
from jaxdbd.input.records import evaluation_batches, open_split
from jaxdbd.input.shards import check_shard


@pytest.fixture(autouse=True)
def checked_record():
    """Type checks read a record of a sequence at random: it shall never be the damaged one."""
    random.seed(0)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    flags = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=24", "--test_scenes=4"]
    assert build.main([*flags, "--num_shards=2", f"--data_dir={folder}"]) == 0
    return folder


@pytest.fixture
def flipped(built, tmp_path):
    """A copy with one bit of the second shard of `train` turned over, and that shard."""
    folder = shutil.copytree(built, tmp_path / "d")
    shard = sorted(folder.rglob("*-train.array_record*"))[1]
    content = bytearray(shard.read_bytes())
    content[20_000] ^= 4
    shard.write_bytes(content)
    return folder, shard


LINE = r"^{}: record \d+ of this shard is damaged \(Corrupted .*\): {}$"
AGAIN = "build the dataset again with --overwrite"


def test_whole_shards_are_read_as_before(built):
    records = open_split("dbd/synthetic", "train", built)
    assert len(records) == len(list(records)) == 24
    assert {record["id"] for record in records} == {records[i]["id"] for i in range(24)}
    for shard in built.rglob("*-train.array_record*"):
        check_shard(shard, 12)
        with pytest.raises(UserError, match=f"this shard is damaged: {AGAIN}"):
            check_shard(shard, 11)


@pytest.mark.parametrize("where", ["host", "none"])
def test_training_names_the_shard(flipped, where):
    folder, shard = flipped
    records = open_split("dbd/synthetic", "train", folder)
    with pytest.raises(UserError, match=LINE.format(shard, AGAIN)):
        place([records], 64, ["depth"], where).gather(np.arange(24, dtype=np.int32))


def test_evaluation_names_the_shard(flipped):
    folder, shard = flipped
    records = open_split("dbd/synthetic", "train", folder)
    with pytest.raises(UserError, match=LINE.format(shard, AGAIN)):
        list(evaluation_batches(records, size=64, batch_size=8))


def test_describe_names_the_shard(flipped, tmp_path, capsys):
    folder, shard = flipped
    flags = ["--dataset=synthetic", "--describe", f"--sheet={tmp_path / 's.png'}"]
    assert build.main([*flags, f"--data_dir={folder}"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {shard}: record ")
    assert len(told.splitlines()) == 1


def test_a_copy_of_a_store_is_to_be_deleted(flipped):
    folder, shard = flipped
    (folder / "dbd" / "synthetic" / ".copied.json").write_text(json.dumps({}))
    copied = "delete it, and the next start copies it from the store again"
    with pytest.raises(UserError, match=LINE.format(shard, copied)):
        list(open_split("dbd/synthetic", "train", folder))


def test_other_errors_of_the_reader_stay_what_they_are(built):
    records = open_split("dbd/synthetic", "train", built)
    with pytest.raises(ValueError, match="Record key"):
        records[24]
