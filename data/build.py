"""Turns raw photographs, masks and a depth teacher into TFDS shards.

    python data/build.py --dataset=cuhk --manual_dir=DIR --teacher=onnx:FILE [--data_dir=DIR]
    python data/build.py --dataset=synthetic --teacher=scene
    python data/build.py --dataset=refocused --manual_dir=DIR --teacher=onnx:FILE
    python data/build.py --dataset=cuhk --describe

data/README.md has the folders each dataset is expected in.
"""

import argparse
import contextlib
import fcntl
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # run as a script, only this file's own folder is on the path
    sys.path.insert(0, ROOT)

from data import checks, refocus, sources, synthetic, teachers, textures  # noqa: E402
from jaxdbd.errors import UserError  # noqa: E402
from jaxdbd.files import check_writable, is_file, os_errors_in_one_line, read_text  # noqa: E402
from jaxdbd.paths import as_path, cache_folder, is_remote, local_path, mirror  # noqa: E402
from jaxdbd.startup import exit_status  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = [*sources.SOURCES, "synthetic", "refocused"]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset", required=True, choices=names)
    p.add_argument("--manual_dir", type=local_path, help="the raw folder")
    p.add_argument("--data_dir", type=as_path, help="where the shards go, gs:// too (default: ~/tensorflow_datasets)")
    p.add_argument("--cache_dir", default="", help="where shards for gs:// are built first (default: the user's cache)")
    p.add_argument("--overwrite", action="store_true", help="build again what is built already")
    p.add_argument("--drop_duplicates", action="store_true", help="leave out training images that are also test images")
    p.add_argument("--num_shards", type=int, help="files per split (default: by size)")
    p.add_argument("--beam", action="store_true", help="build with Apache Beam")
    p.add_argument("--beam_options", default="", help="options of Beam's runner, in one string")
    p.add_argument("--describe", action="store_true", help="tell what a built dataset holds, and draw 24 examples")
    p.add_argument("--sheet", type=local_path, help="where --describe draws them (default: DATASET_sheet.png)")

    g = p.add_argument_group("teacher")
    g.add_argument("--teacher", default="none", help="none | scene | dir:DIR | onnx:FILE | hf:MODEL (default: none)")
    g.add_argument("--teacher_preset", choices=teachers.PRESETS, help="of an ONNX file (default: by the file's name)")
    g.add_argument("--teacher_polarity", choices=["near", "far"], help="what a larger output means")
    g.add_argument("--teacher_size", type=_size, metavar="HxW", help="input size, where an ONNX file leaves it open")
    g.add_argument("--teacher_mean", type=_floats, metavar="R,G,B", help="subtracted from an ONNX input in [0, 1]")
    g.add_argument("--teacher_std", type=_floats, metavar="R,G,B", help="what the rest is divided by")
    g.add_argument(
        "--teacher_features",
        type=_names,
        default=(),
        metavar="NAME[,NAME]",
        help="tensors of an ONNX file's graph, to be stored beside the depth",
    )

    g = p.add_argument_group("raw folders that differ from the published ones")
    g.add_argument("--images", metavar="DIR[,DIR]", help="folder of photographs of each split, below --manual_dir")
    g.add_argument("--masks", metavar="DIR[,DIR]", help="folder of masks of each split")
    g.add_argument("--gt_white", choices=["blur", "focus"], help="what the masks draw white")
    g.add_argument("--test_list", type=local_path, help="text file of the photographs to test on, one name a line")
    g.add_argument("--train_list", type=local_path, help="the same to train on (default: all the others)")

    g.add_argument(
        "--allow_uniform_masks",
        action="store_true",
        help="build though no mask has both focus and blur",
    )

    g = p.add_argument_group("rendered datasets")
    g.add_argument("--seed", type=int, default=0, help="another seed renders other scenes (default: 0)")
    g.add_argument("--renderings", type=int, default=2, help="refocused: scenes per photograph (default: 2)")

    g = p.add_argument_group("synthetic")
    g.add_argument("--train_scenes", type=int, default=400)
    g.add_argument("--test_scenes", type=int, default=60)
    g.add_argument("--size", type=int, default=256)
    g.add_argument("--textures", type=local_path, help="folder of all-in-focus photographs to use as textures")
    return p


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def _floats(text: str) -> tuple[float, ...]:
    r, g, b = text.split(",")
    return float(r), float(g), float(b)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""

    def run() -> None:
        args = parser().parse_args(argv)
        try:
            (describe if args.describe else build)(args)
        except KeyboardInterrupt:
            print("nothing half-built is left to be taken for whole", file=sys.stderr)
            raise

    return exit_status(run)


class Plan(NamedTuple):
    """What a dataset is built from."""

    splits: dict[str, list[Any]]  # scenes or pairs
    load: Callable[[Any], dict]  # one of those to a record
    source: sources.Source | None  # None: the scenes are drawn, there are no files to check
    problems: list[str]  # known so far, a line each
    raw: dict  # what the metadata says of them


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

    with sole_builder(folder):
        # What a killed upload left here is whole, and goes up now; TFDS would take what is not whole for built.
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
        tell_of_depth(folder, tells_auc=args.dataset != "refocused")  # there we chose the focus


def teacher_settings(args: argparse.Namespace) -> teachers.Settings:
    """What the flags say of the teacher."""
    return teachers.Settings(
        args.teacher,
        args.teacher_preset,
        args.teacher_polarity,
        args.teacher_size,
        args.teacher_mean,
        args.teacher_std,
        args.teacher_features,
    )


def tell_of_depth(folder: Path, tells_auc: bool) -> None:
    """Prints how well nearness tells what is in focus, and warns of holes in the teacher's maps."""
    from data.describe import auc_line, holes_line, statistics

    for split, figures in statistics(folder).items():
        if tells_auc:
            print(auc_line(split, figures["auc"]))
        if line := holes_line(split, figures["holes"]):
            print(f"warning: {line}; the loss leaves them out", file=sys.stderr)


def check_flags(args: argparse.Namespace) -> None:
    """Raises UserError for flags that cannot go together."""
    if args.teacher == "scene" and args.dataset != "synthetic":
        raise UserError(f"--teacher=scene knows the depth of synthetic scenes only, not of {args.dataset}")
    if args.teacher.startswith("dir:") and args.dataset == "synthetic":
        raise UserError(
            "--teacher=dir:DIR goes by the names of photographs; for --dataset=synthetic use --teacher=scene"
        )
    if args.teacher == "none" and args.dataset == "refocused":
        raise UserError("--dataset=refocused blurs by depth: give a teacher, dir:DIR, onnx:FILE or hf:MODEL")
    if args.teacher_features and not args.teacher.startswith("onnx:"):
        raise UserError(f"--teacher_features are tensors of an ONNX file: --teacher={args.teacher} has none")
    if args.teacher_features and args.dataset == "refocused":
        raise UserError("--teacher_features: for --dataset=refocused the teacher sees photographs before they blur")
    if args.renderings < 1:
        raise UserError(f"--renderings={args.renderings}: at least 1")
    if args.num_shards is not None and args.num_shards < 1:
        raise UserError(f"--num_shards={args.num_shards}: at least 1")


def make_plan(args: argparse.Namespace, settings: teachers.Settings) -> Plan:
    """What to build from, with every problem that shows before a file is opened."""
    if args.dataset == "synthetic":
        splits, raw = scenes(args)
        return Plan(splits, synthetic.load, None, [], raw)
    source, splits, problems, raw = pairs(args)
    problems += teachers.missing_maps(settings, (p.image for split in splits.values() for p in split))
    return Plan(splits, sources.load, source, problems, raw)


def is_built(folder: epath.Path | Path, metadata: dict) -> bool:
    """Whether the dataset is there. Raises UserError where it was built from something else, or is damaged."""
    import tensorflow_datasets as tfds

    from jaxdbd.input import shards

    built = built_from(folder)
    if built is None:
        return False
    if built != metadata:
        differs = " and ".join(key for key in metadata if built.get(key) != metadata[key])
        raise UserError(f"{folder} was built with another {differs}: pass --overwrite, or another --data_dir")
    if not is_remote(folder):
        shards.open_builder(lambda: tfds.builder_from_directory(folder), str(folder))
    return True


def clear_damaged(folder: Path) -> None:
    """Deletes a dataset that cannot be read: TFDS reads what is there before it builds it again."""
    import tensorflow_datasets as tfds

    from jaxdbd.input import shards

    if folder.exists():
        try:
            shards.open_builder(lambda: tfds.builder_from_directory(folder), str(folder))
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


def pairs(args: argparse.Namespace) -> tuple[sources.Source, dict[str, list[sources.Pair]], list[str], dict]:
    """The source, the pairs of each split, the problems met so far, and what the metadata says of the raw files."""
    if args.manual_dir is None:
        raise UserError(f"--dataset={args.dataset} needs --manual_dir=DIR, the folder with its files")
    if args.dataset == "refocused":
        source = sources.REFOCUSED
        splits, problems = sources.find_photographs(args.manual_dir, args.test_list, args.train_list)
        lists = {which: [p.id for p in splits.get(which, [])] for which in ("train", "test")}
        extra = {"renderings": args.renderings, "seed": args.seed}
        extra |= {f"{which}_list": teachers.digest({"names": names}) for which, names in lists.items()}
    else:
        source = sources.customise(
            sources.SOURCES[args.dataset], args.images, args.masks, args.gt_white, args.test_list, args.train_list
        )
        splits, problems = sources.find_pairs(source, args.manual_dir)
        extra = {"masks_white": source.white}
    sizes = [
        [split, p.id, *(_size_of(path) for path in (p.image, p.mask) if path)]
        for split, found in splits.items()
        for p in found
    ]
    raw = {
        "title": source.title,
        **extra,
        "files": teachers.digest({"sizes": sizes}),
        "drop_duplicates": args.drop_duplicates,
    }
    return source, splits, problems, raw


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # the checks say what is wrong with it


def scenes(args: argparse.Namespace) -> tuple[dict[str, list[synthetic.Scene]], dict]:
    """The scenes of each split, and what the metadata says of them."""
    if min(args.train_scenes, args.test_scenes) < 0 or args.train_scenes + args.test_scenes == 0:
        raise UserError(f"--train_scenes={args.train_scenes} --test_scenes={args.test_scenes}: no scenes to render")
    if args.size < 64:
        raise UserError(f"--size={args.size}: scenes are at least 64 pixels wide")
    if args.textures is not None:
        textures.photographs(args.textures)  # fails here rather than in a worker
    splits = synthetic.scenes(args.train_scenes, args.test_scenes, args.size, args.seed, args.textures)
    raw = {"train": args.train_scenes, "test": args.test_scenes, "size": args.size, "seed": args.seed}
    return splits, raw | {"textures": str(args.textures or "")}


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

    Raises UserError for no metadata there, or what is none, such as the empty file that a power cut leaves.
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


def beam_options(args: argparse.Namespace):
    """Beam's options, None without `--beam`."""
    if not args.beam:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--beam needs apache-beam: pip install 'jaxdbd[beam]'") from None
    return PipelineOptions(shlex.split(args.beam_options))


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
    """Turns a `UserError` that a Beam worker raised, and the runner hands on as text, back into one."""
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
    from jaxdbd.input.shards import local_data_dir

    place = dataset_folder(data_folder(args), args.dataset)
    if built_from(place) is None:
        raise UserError(f"no dataset in {place}: build it first, with the same command less --describe")
    data_dir = local_data_dir(f"dbd/{args.dataset}", data_folder(args), args.cache_dir)
    describe_dataset(Path(dataset_folder(data_dir, args.dataset)), args.sheet or Path(f"{args.dataset}_sheet.png"))


if __name__ == "__main__":
    sys.exit(main())
