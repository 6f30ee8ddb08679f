"""Turns raw photographs, masks and a depth teacher into TFDS shards.

    python data/build.py --dataset=cuhk --manual_dir=DIR --teacher=onnx:FILE [--data_dir=DIR]
    python data/build.py --dataset=synthetic --teacher=scene

data/README.md has the folders each dataset is expected in.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # run as a script, only this file's own folder is on the path
    sys.path.insert(0, ROOT)

from data import sources, synthetic, teachers  # noqa: E402
from jaxdbd.errors import UserError  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """The command line."""
    names = [*sources.SOURCES, "synthetic"]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset", required=True, choices=names)
    p.add_argument("--manual_dir", type=Path, help="the raw folder")
    p.add_argument("--data_dir", type=Path, help="where the shards go (default: TFDS's own, ~/tensorflow_datasets)")
    p.add_argument("--overwrite", action="store_true", help="build again what is built already")

    g = p.add_argument_group("teacher")
    g.add_argument("--teacher", default="none", help="none | scene | onnx:FILE (default: none)")
    g.add_argument("--teacher_preset", choices=teachers.PRESETS, help="default: by the file's name")
    g.add_argument("--teacher_polarity", choices=["near", "far"], help="what a larger output means")
    g.add_argument("--teacher_size", type=_size, metavar="HxW", help="input size, where the model leaves it open")
    g.add_argument("--teacher_mean", type=_floats, metavar="R,G,B", help="of an input in [0, 1]")
    g.add_argument("--teacher_std", type=_floats, metavar="R,G,B")

    g = p.add_argument_group("folders that differ from the published ones")
    g.add_argument("--images", metavar="DIR[,DIR]", help="folder of photographs of each split, below --manual_dir")
    g.add_argument("--masks", metavar="DIR[,DIR]", help="folder of masks of each split")
    g.add_argument("--gt_white", choices=["blur", "focus"], help="what the masks draw white")
    g.add_argument("--test_list", type=Path, help="text file of the photographs to test on, one a line")

    g = p.add_argument_group("synthetic")
    g.add_argument("--train_scenes", type=int, default=400)
    g.add_argument("--test_scenes", type=int, default=60)
    g.add_argument("--size", type=int, default=256)
    g.add_argument("--seed", type=int, default=0)
    g.add_argument("--textures", type=Path, help="folder of all-in-focus photographs to use as textures")
    return p


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def _floats(text: str) -> tuple[float, ...]:
    r, g, b = text.split(",")
    return float(r), float(g), float(b)


def collect(args: argparse.Namespace) -> tuple[dict[str, list], partial, dict]:
    """What to build: the items of each split, the function that loads one, and a description of the raw source.

    Raises:
        UserError: anything wrong with the raw folder; all of it in one message.
    """
    if args.dataset == "synthetic":
        items = synthetic.scenes(args.train_scenes, args.test_scenes, args.size, args.seed, args.textures)
        raw = {"train": args.train_scenes, "test": args.test_scenes, "size": args.size, "seed": args.seed}
        return items, partial(synthetic.load), raw | {"textures": str(args.textures or "")}
    if args.manual_dir is None:
        raise UserError(f"--dataset={args.dataset} needs --manual_dir=DIR, the folder of {args.dataset}'s files")
    source = sources.customise(sources.SOURCES[args.dataset], args.images, args.masks, args.gt_white, args.test_list)
    splits, problems = sources.find_pairs(source, args.manual_dir)
    if problems:
        raise UserError("\n".join([f"{len(problems)} problem(s) in {args.manual_dir}; nothing was built", *problems]))
    listing = {
        split: [[p.id, p.image.stat().st_size, p.mask.stat().st_size] for p in pairs] for split, pairs in splits.items()
    }
    return splits, partial(sources.load), {"title": source.title, "files": teachers.digest(listing)}


def build(args: argparse.Namespace) -> None:
    """Builds one dataset, or says that it is there already."""
    settings = teachers.Settings(
        args.teacher, args.teacher_preset, args.teacher_polarity, args.teacher_size, args.teacher_mean, args.teacher_std
    )
    if args.teacher == "scene" and args.dataset != "synthetic":
        raise UserError(f"--teacher=scene knows the depth of synthetic scenes only, not of {args.dataset}")
    teacher = teachers.open_teacher(settings)
    splits, load, raw = collect(args)
    metadata = {"raw": raw, "teacher": teacher.identity if teacher else None}

    import tensorflow_datasets as tfds  # after the checks: it is slow to import

    from data.dbd_dataset import Dbd

    data_dir = args.data_dir or Path(tfds.core.constants.DATA_PATH)
    folder = data_dir / "dbd" / args.dataset / str(Dbd.VERSION)
    if folder.exists() and not args.overwrite:
        built = json.loads((folder / "metadata.json").read_text())
        if built == metadata:
            print(f"dbd/{args.dataset} is built already: {folder} (nothing to do)")
            return
        differs = " and ".join(key for key in metadata if built.get(key) != metadata[key])
        raise UserError(f"{folder} was built from another {differs}: pass --overwrite, or another --data_dir")
    for leftover in folder.parent.glob(f"{folder.name}.incomplete*"):  # of a build that was killed
        shutil.rmtree(leftover)

    tfds.disable_progress_bar()  # it cannot know how many examples there are; the builder shows its own
    builder = Dbd(
        splits=splits,
        load=load,
        teacher=settings,
        metadata=metadata,
        cache=data_dir / "dbd_teacher_cache",
        config=args.dataset,
        data_dir=data_dir,
        file_format="array_record",
    )
    mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS if args.overwrite else tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, download_mode=mode)
    )
    counts = ", ".join(f"{info.num_examples} {split}" for split, info in builder.info.splits.items())
    print(f"built dbd/{args.dataset}: {counts}, teacher {args.teacher}; in {folder}")


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        build(parser().parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
