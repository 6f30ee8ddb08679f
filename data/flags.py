"""The command line of data/build.py."""

import argparse
import shlex

from data import sources, teachers
from jaxdbd.errors import UserError, check_within
from jaxdbd.machine.paths import as_path, local_path

# The interval of each number; of several in a tuple, each must lie in it.
RANGES = {
    "num_shards": "[1, 99999]",  # TFDS counts them with five digits
    "renderings": "[1, inf)",
    "seed": "[0, inf)",
    "train_scenes": "[0, inf)",
    "test_scenes": "[0, inf)",
    "size": "[64, 16384]",
    "teacher_size": "[1, 16384]",
    "teacher_mean": "(-inf, inf)",
    "teacher_std": "(0, inf)",
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """All flags."""
    names = [*sources.SOURCES, "synthetic", "refocused", "pairs"]
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    p.add_argument(
        "--pictures", type=local_path, help="pairs: folder where --describe draws every scene with its masks"
    )

    g = p.add_argument_group("teacher")
    g.add_argument("--teacher", default="none", help="none | scene | dir:DIR | onnx:FILE | hf:MODEL (default: none)")
    g.add_argument("--teacher_preset", choices=teachers.PRESETS, help="of an ONNX file (default: by the file's name)")
    g.add_argument("--teacher_polarity", choices=["near", "far"], help="what a larger output means")
    g.add_argument("--teacher_size", type=_size, metavar="HxW", help="input size, where an ONNX file leaves it open")
    g.add_argument("--teacher_mean", type=_floats, metavar="R,G,B", help="subtracted from an ONNX input in [0, 1]")
    g.add_argument("--teacher_std", type=_floats, metavar="R,G,B", help="what the rest is divided by")
    g.add_argument("--teacher_output", metavar="NAME", help="which output of an ONNX file is the depth (the first)")
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

    g.add_argument("--allow_uniform_masks", action="store_true", help="build though no mask has both focus and blur")

    g = p.add_argument_group("rendered datasets")
    g.add_argument("--seed", type=int, default=0, help="another seed renders other scenes (default: 0)")
    g.add_argument("--renderings", type=int, default=2, help="refocused: scenes per photograph (default: 2)")
    g.add_argument("--sharp_maps", type=local_path, help="refocused: maps of photographs that are not sharp all over")

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
    if args.teacher_output and not args.teacher.startswith("onnx:"):
        raise UserError(f"--teacher_output is one of an ONNX file: --teacher={args.teacher} has none")
    if args.teacher_features and args.dataset == "refocused":
        raise UserError("--teacher_features: for --dataset=refocused the teacher sees photographs before they blur")
    if args.sharp_maps and args.dataset != "refocused":
        raise UserError(f"--sharp_maps is for --dataset=refocused; {args.dataset} has masks")
    if args.pictures:
        raise UserError("--pictures draws what is built already: add --describe")
    for name, interval in RANGES.items():
        if (value := getattr(args, name)) is not None:
            check_within(f"--{name}", value, interval)


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
        args.teacher_output,
    )


def beam_options(args: argparse.Namespace):
    """Beam's options, None without `--beam`."""
    if not args.beam:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("--beam needs apache-beam: pip install 'jaxdbd[beam]'") from None
    return PipelineOptions(shlex.split(args.beam_options))
