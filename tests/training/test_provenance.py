"""Which data a checkpoint is from: datasets built anew in their place, and another split for the evaluation."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import tiny
from test_checkpoint import CONFIG, LAYOUT, make_state
from two_layers import two_layers

from data import build
from jaxdbd import sharding
from jaxdbd.errors import UserError
from jaxdbd.input import shards
from jaxdbd.input.records import open_split
from jaxdbd.input.shards import shards_digest
from jaxdbd.training import checkpoint, loop
from jaxdbd.training.loop import train
from jaxdbd.training.provenance import Provenance, check_same_shards, git_revision, provenance

SCENES = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=16", "--test_scenes=8"]


def built(folder: Path, *flags: str) -> Path:
    assert build.main([*SCENES, f"--data_dir={folder}", *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("scenes"))


def digest_of(data_dir: Path, split: str = "train") -> str:
    return shards_digest(open_split("dbd/synthetic", split, data_dir))


def test_the_digest_is_that_of_what_is_in_the_shards_and_not_of_where_they_lie(scenes, tmp_path):
    first = digest_of(scenes)
    assert len(first) == 64
    assert digest_of(scenes, "test[:3]") == first
    assert digest_of(shutil.copytree(scenes, tmp_path / "moved")) == first
    assert digest_of(built(tmp_path / "moved", "--overwrite")) == first  # the same scenes again
    assert digest_of(built(tmp_path / "moved", "--overwrite", "--seed=1")) != first


def test_one_byte_of_a_shard_is_another_digest(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    records = SimpleNamespace(
        dataset_info=SimpleNamespace(splits={"test": SimpleNamespace(filepaths=[tmp_path / "a"])})
    )
    first = shards_digest(records)
    assert shards_digest(records) == first
    (tmp_path / "a").write_bytes(bytes(70) + b"x" + bytes(29))
    assert shards_digest(records) != first


def test_of_large_shards_blocks_all_over_are_read(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 10)
    monkeypatch.setattr(shards, "BLOCKS", 4)
    assert shards.block_starts(0) == []
    assert shards.block_starts(25) == [0, 10, 20]
    assert shards.block_starts(40) == [0, 10, 20, 30]
    assert shards.block_starts(100) == [0, 30, 60, 90]


def test_the_split_that_is_evaluated_names_its_shards():
    shards = {"dbd/a": "a" * 64, "dbd/b": "b" * 64}
    assert provenance("dbd/a", "", shards).evaluated == ""
    assert provenance("dbd/a+dbd/b", "test[:9]", shards).evaluated == f"dbd/a+dbd/b:test[:9] ({'a' * 12}+{'b' * 12})"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with one commit, of a package."""
    package = tmp_path / "checkout" / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("a = 1\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *command], cwd=package.parent, check=True)
    return package


def test_the_commit_and_whether_the_code_was_changed_since(checkout, monkeypatch):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert git_revision(checkout) == head.strip()
    (checkout / "code.py").write_text("a = 2\n")
    assert git_revision(checkout) == f"{head.strip()}+"
    monkeypatch.setenv("PATH", "")
    assert git_revision(checkout) == ""


def test_an_installed_package_has_no_commit_whatever_it_lies_in(checkout, tmp_path):
    installed = checkout.parent / ".venv" / "site-packages" / "package"
    installed.mkdir(parents=True)
    assert git_revision(installed) == ""
    (tmp_path / "elsewhere" / "package").mkdir(parents=True)
    assert git_revision(tmp_path / "elsewhere" / "package") == ""
    assert git_revision(tmp_path / "nowhere" / "package") == ""


def test_the_commit_is_taken_when_the_run_begins(monkeypatch):
    monkeypatch.setattr("jaxdbd.training.provenance.git_revision", lambda: "abc")
    assert provenance("dbd/a", "", {"dbd/a": "1"}).revision == "abc"


def test_only_datasets_that_both_have_are_compared(capsys):
    check_same_shards(Path("F"), 4, None, {"dbd/a": "1"}, False)  # a checkpoint from before there were digests
    check_same_shards(Path("F"), 4, {"dbd/a": "1"}, {"dbd/b": "2"}, False)  # config.dataset has changed, which is told
    check_same_shards(Path("F"), 4, {"dbd/a": "1", "dbd/b": "2"}, {"dbd/a": "1"}, False)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError) as caught:
        check_same_shards(Path("F"), 4, {"dbd/a": "1", "dbd/b": "2"}, {"dbd/a": "3", "dbd/b": "2"}, False)
    assert str(caught.value) == (
        "dbd/a: built anew, with other content, since checkpoint 4 of F: take another --workdir, or pass "
        "--accept_rebuilt_data to go on with the new one"
    )
    check_same_shards(Path("F"), 4, {"dbd/a": "1"}, {"dbd/a": "3"}, True)
    assert capsys.readouterr().err.startswith("warning: dbd/a: built anew, with other content, since checkpoint 4")


def write(folder: Path, step: int, mae: float | None, origin: Provenance) -> None:
    manager = checkpoint.open_manager(folder, 1, origin.evaluated)
    scores = None if mae is None else {"mae": mae}
    checkpoint.save(manager, step, make_state(step), 8, LAYOUT, CONFIG, scores, origin)
    manager.close()


def best(folder: Path, evaluated: str) -> float:
    manager = checkpoint.open_manager(folder, 1, evaluated)
    try:
        return checkpoint.best_mae(manager, evaluated)
    finally:
        manager.close()


def kept(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def test_a_mark_belongs_to_its_split(tmp_path, capsys):
    a, b = Provenance({}, "dbd/x:test (1)"), Provenance({}, "dbd/x:train[:9] (1)")
    write(tmp_path, 1, 0.1, a)
    write(tmp_path, 2, 0.2, a)
    assert kept(tmp_path) == {1, 2}
    assert best(tmp_path, a.evaluated) == 0.1
    assert best(tmp_path, b.evaluated) == float("inf")
    assert capsys.readouterr().err == (
        "warning: the evaluations so far are of dbd/x:test (1) and do not count for dbd/x:train[:9] (1): "
        "the next one writes weights.safetensors anew\n"
    )
    write(tmp_path, 3, 0.3, b)
    write(tmp_path, 4, 0.4, b)
    assert kept(tmp_path) == {3, 4}  # the best of the new split stays, and that of the old one need not
    assert best(tmp_path, b.evaluated) == 0.3
    assert capsys.readouterr().err == ""
    assert best(tmp_path, "") == float("inf")


def test_a_checkpoint_says_which_shards_it_was_trained_on(tmp_path):
    write(tmp_path, 1, None, Provenance({"dbd/x": "1"}, ""))
    shapes = jax.eval_shape(lambda: make_state(0))
    target = checkpoint.abstract(shapes, sharding.state_sharding(sharding.make_mesh(), shapes, fsdp=False))
    manager = checkpoint.open_manager(tmp_path, 1)
    try:
        state, _ = checkpoint.restore(manager, target, LAYOUT, CONFIG, {"dbd/x": "1"})
        assert int(state["step"]) == 1
        with pytest.raises(UserError, match="dbd/x: built anew"):
            checkpoint.restore(manager, target, LAYOUT, CONFIG, {"dbd/x": "2"})
        assert checkpoint.restore(manager, target, LAYOUT, CONFIG, {"dbd/x": "2"}, True) is not None
    finally:
        manager.close()


@pytest.mark.slow
def test_a_training_whose_data_or_split_changed(scenes, tmp_path, capfd, monkeypatch):
    """At a rate of nearly nothing: what changes is only what is evaluated."""
    monkeypatch.setattr(loop, "make_model", two_layers)
    data_dir, run = shutil.copytree(scenes, tmp_path / "data"), tmp_path / "run"
    config = tiny.get_config()
    config.update(data_dir=str(data_dir), learning_rate=1e-30, steps=2)
    config.update(eval_every=1, checkpoint_every=1, warmup_steps=0, eval_split="test[:4]", ema_decay=0.0)

    def again(**flags) -> bool:
        """Takes the second step, as after a kill; whether weights were written."""
        shutil.rmtree(run / "checkpoints" / "2")
        (run / "weights.safetensors").unlink(missing_ok=True)
        assert train(config, run, **flags) == 0
        return (run / "weights.safetensors").is_file()

    assert train(config, run) == 0
    config.eval_split = "test[4:]"
    assert again()
    assert "the evaluations so far are of dbd/synthetic:test[:4] (" in capfd.readouterr().err
    built(data_dir, "--overwrite", "--seed=1")
    with pytest.raises(UserError, match="dbd/synthetic: built anew, with other content, since checkpoint 1"):
        again()
    (run / "checkpoints" / "2").mkdir()
    assert again(accepts_rebuilt=True)  # the split of that name is another one now
