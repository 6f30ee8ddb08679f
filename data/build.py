"""Turns raw photographs, masks and a depth teacher into TFDS shards.

    python data/build.py --dataset=cuhk --manual_dir=DIR --teacher=onnx:FILE [--data_dir=DIR]
    python data/build.py --dataset=synthetic --teacher=scene
    python data/build.py --dataset=refocused --manual_dir=DIR --teacher=onnx:FILE
    python data/build.py --dataset=pairs --manual_dir=DIR
    python data/build.py --dataset=cuhk --describe

data/README.md has the folders each dataset is expected in.
"""

import argparse
import contextlib
import fcntl
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # run as a script, only this file's own folder is on the path
    sys.path.insert(0, ROOT)

from data import checks, pairs, refocus, sources, teachers  # noqa: E402
from data.flags import beam_options, check_flags, parser, teacher_settings  # noqa: E402
from data.plan import make_plan  # noqa: E402
from jaxdbd.errors import UserError  # noqa: E402
from jaxdbd.machine.files import check_writable, is_file, os_errors_in_one_line, read_text  # noqa: E402
from jaxdbd.machine.paths import as_path, cache_folder, is_remote, mirror  # noqa: E402
from jaxdbd.machine.startup import exit_status  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def run() -> None:
        args = parser(__doc__).parse_args(argv)
        try:
            (describe if args.describe else build)(args)
        except KeyboardInterrupt:
            print("nothing half-built is left to be taken for whole", file=sys.stderr)
            raise

    return exit_status(run)


def build(args: argparse.Namespace) -> None:
    """Builds one dataset, or says that it is there already.

    Raises:
        UserError: anything wrong with the raw files, all of it in one message; an unusable teacher; a dataset built
            from something else in its place.
    """
    check_flags(args)
    settings = teacher_settings(args)
    teacher = teachers.open_teacher(settings)
    runner = beam_options(args)
    plan = make_plan(args, settings)
    metadata = {"raw": plan.raw, "teacher": teacher.identity if teacher else None, "num_shards": args.num_shards}

    from data.dbd_dataset import Dbd  # slow, and not needed by the processes that load images
    from jaxdbd.input import shards

    place = dataset_folder(data_folder(args), args.dataset)
    if is_remote(place):
        check_writable(place)
    if not args.overwrite and not plan.problems and is_built(place, metadata):
        print(f"dbd/{args.dataset} is built already, in {place}: nothing to do")
        return
    data_dir = local_data_folder(args)
    folder = Path(dataset_folder(data_dir, args.dataset))
    splits, load, render = plan.splits, plan.load, None
    if plan.source is not None:
        splits = checks.check(plan.source, splits, plan.problems, args.drop_duplicates, args.allow_uniform_masks)
    if args.dataset == "refocused":
        splits, load, render = refocus.scenes(splits, args.renderings, args.seed), refocus.load, refocus.render
    elif args.dataset == "pairs":
        splits, load = pairs.compared(splits), pairs.load

    with sole_builder(folder):
        # What a killed upload left here is whole, and goes up now. A build that is not whole TFDS would take for built.
        again = args.overwrite or (folder.exists() and built_from(folder) != metadata)
        if again:
            clear_damaged(folder)
        builder = Dbd(
            splits=splits,
            load=load,
            teacher=settings,
            metadata=metadata,
            cache=data_dir / "dbd_teacher_cache",
            beam=args.beam,
            masks_have_gaps=plan.source in (sources.REFOCUSED, sources.PAIRS),
            render=render,
            config=args.dataset,
            data_dir=data_dir,
            file_format="array_record",
        )
        write_shards(builder, args.num_shards, again, runner)
        if is_remote(place):
            shards.put_dataset(folder, as_path(place))
    counts = ", ".join(f"{info.num_examples} {split}" for split, info in builder.info.splits.items())
    print(f"built dbd/{args.dataset}: {counts}; teacher {args.teacher}; in {place}")
    if teacher:
        tell_of_depth(folder, tells_auc=args.dataset not in ("refocused", "pairs"))  # there the focus was chosen


def tell_of_depth(folder: Path, tells_auc: bool) -> None:
    """Prints how well nearness tells what is in focus, and warns of holes in the teacher's maps."""
    from data.describe import auc_line, holes_line, statistics

    for split, figures in statistics(folder).items():
        if tells_auc:
            print(auc_line(split, figures["auc"]))
        if line := holes_line(split, figures["holes"]):
            print(f"warning: {line}; the loss leaves them out", file=sys.stderr)


def is_built(folder: epath.Path | Path, metadata: dict) -> bool:
    """Whether the dataset is there. Raises UserError where it was built from something else, or is damaged."""
    from jaxdbd.input import shards

    built = built_from(folder)
    if built is None:
        return False
    if built != metadata:
        differs = " and ".join(key for key in metadata if built.get(key) != metadata[key])
        raise UserError(f"{folder} was built with another {differs}: pass --overwrite, or another --data_dir")
    if not is_remote(folder):
        shards.open_folder(folder)
    return True


def clear_damaged(folder: Path) -> None:
    """Deletes a dataset that cannot be read: TFDS reads what is there before it builds it again."""
    from jaxdbd.input import shards

    if folder.exists():
        try:
            shards.open_folder(folder)
        except UserError:
            shutil.rmtree(folder)


def write_shards(builder: Any, num_shards: int | None, overwrite: bool, runner: Any) -> None:
    """Has TFDS write the shards of a `Dbd`, under Beam with the options `runner` if `--beam` was given."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # it cannot know how many examples there are; the builder shows its own
    modes = tfds.GenerateMode
    with errors_of_workers():
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False,
                download_mode=modes.REUSE_CACHE_IF_EXISTS if overwrite else modes.REUSE_DATASET_IF_EXISTS,
                num_shards=num_shards,
                beam_options=runner,
            )
        )


def data_folder(args: argparse.Namespace) -> epath.Path:
    """`--data_dir`, or where TFDS keeps datasets."""
    from tensorflow_datasets.core import constants

    return args.data_dir or as_path(constants.DATA_DIR)


def local_data_folder(args: argparse.Namespace) -> Path:
    """The data folder, or for one in a store the place in the cache that training on this machine will look at too."""
    folder = data_folder(args)
    return mirror(cache_folder(args.cache_dir), "data", folder) if is_remote(folder) else Path(folder)


def dataset_folder(data_dir: epath.Path | Path, dataset: str) -> epath.Path | Path:
    """Where a dataset lies in a data folder."""
    from data.dbd_dataset import Dbd

    return data_dir / "dbd" / dataset / str(Dbd.VERSION)


def built_from(folder: epath.Path | Path) -> dict | None:
    """The metadata of the dataset in a folder; None where there is none, or not all of it.

    Raises UserError where the metadata is missing or damaged, such as the empty file that a power cut leaves.
    """
    if not is_file(folder / "dataset_info.json"):
        return None
    path, metadata = folder / "metadata.json", None
    if is_file(path):
        with contextlib.suppress(ValueError):
            metadata = json.loads(read_text(path))
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: missing or damaged: build the dataset again with --overwrite")
    return metadata


@contextlib.contextmanager
def sole_builder(folder: Path) -> Iterator[None]:
    """Holds the dataset's folder for this process, and clears what a killed build left in it."""
    with os_errors_in_one_line(folder.parent, "no dataset can be built here"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock_file = (folder.parent / ".lock").open("w")
    with lock_file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when the process dies
        except BlockingIOError:
            raise UserError(f"another build is writing to {folder.parent}: wait for it to end") from None
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
            shutil.rmtree(leftover)
        yield


@contextlib.contextmanager
def errors_of_workers() -> Iterator[None]:
    """A `UserError` that a Beam worker raised reaches us as text: turns it back into one."""
    try:
        yield
    except RuntimeError as error:
        told = re.findall(r"^jaxdbd\.errors\.UserError: (.*)$", str(error), re.MULTILINE)
        if not told:
            raise
        raise UserError(told[-1]) from None


def describe(args: argparse.Namespace) -> None:
    """Tells what a built dataset holds."""
    from data.describe import describe as describe_dataset
    from data.describe import draw_scenes
    from jaxdbd.input.shards import local_data_dir

    if args.pictures and args.dataset != "pairs":
        raise UserError(f"--pictures draws scenes of --dataset=pairs; {args.dataset} has none")
    place = dataset_folder(data_folder(args), args.dataset)
    if built_from(place) is None:
        raise UserError(f"no dataset in {place}: build it first, with the same command less --describe")
    data_dir = local_data_dir(f"dbd/{args.dataset}", data_folder(args), args.cache_dir)
    folder = Path(dataset_folder(data_dir, args.dataset))
    describe_dataset(folder, args.sheet or Path(f"{args.dataset}_sheet.png"))
    if args.pictures:
        draw_scenes(folder, args.pictures)


if __name__ == "__main__":
    sys.exit(main())
