"""What can be wrong with a benchmark's files, found before anything is built and told all at once."""

import dataclasses
import itertools
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data import sources
from jaxdbd.errors import UserError
from jaxdbd.machine.files import read_bytes, shown
from jaxdbd.machine.parallel import in_turn, parallel_map
from jaxdbd.photographs.decoding import Undecodable, opened
from jaxdbd.photographs.masks import read_map, read_mask
from jaxdbd.photographs.photos import conversion, upright_rgb

# Choice of ours. Copies of a photograph that were scaled or compressed again differ in 0-6 of the 64 bits; the two most
# alike of CUHK's training and test photographs, which show different things, differ in 14.
NEAR_IDENTICAL_BITS = 8


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one pair is like. `problem` is a line that names the file; the rest holds where there is none."""

    problem: str | None = None
    conversion: str | None = None  # what had to be done to the photograph
    remark: str = ""  # on the range of the photograph's values
    gray_mask: bool = False  # the mask holds more than black and white
    uniform: int | None = None  # the one value that the mask holds, 0 or 255
    fingerprint: bytes = b""  # perceptual hash of the photograph


def check(
    source: sources.Source,
    splits: dict[str, list[sources.Pair]],
    problems: list[str],
    drop_duplicates: bool,
    allow_uniform_masks: bool = False,
) -> dict[str, list[sources.Pair]]:
    """Inspects every pair and prints warnings.

    Args:
        source: where the pairs come from.
        splits: the pairs of each split.
        problems: what is known to be wrong already.
        drop_duplicates: leave out of `train` what is also in `test`.
        allow_uniform_masks: every mask may be of one value.

    Returns:
        The pairs to build from.

    Raises:
        UserError: files that cannot be used; one message with a line for each.
    """
    everything = [pair for pairs in splits.values() for pair in pairs]
    found = iter(list(parallel_map(inspect, everything, "checking files")))
    findings = {split: list(itertools.islice(found, len(pairs))) for split, pairs in splits.items()}
    problems = problems + [f.problem for split in findings.values() for f in split if f.problem]
    if not problems and not allow_uniform_masks:
        problems = all_uniform(source, splits, findings)
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} problem(s) in the raw files; nothing was built", *problems]))
    for remark in remarks(source, splits, findings):
        print(f"warning: {remark}", file=sys.stderr)
    same = duplicates(splits, findings)
    if same:
        listing = "\n  ".join(
            f"{shown(train.image)} ~ {shown(test.image)} ({bits} of 64 bits differ)" for train, test, bits in same
        )
        what = "left out of train" if drop_duplicates else "pass --drop_duplicates to leave them out of train"
        print(f"warning: {len(same)} training photograph(s) are also in test; {what}\n  {listing}", file=sys.stderr)
    dropped = {id(train) for train, _, _ in same} if drop_duplicates else set()
    return {split: [pair for pair in pairs if id(pair) not in dropped] for split, pairs in splits.items()}


def all_uniform(
    source: sources.Source, splits: dict[str, list[sources.Pair]], findings: dict[str, list[Finding]]
) -> list[str]:
    """The problem that no mask of the whole set has both what is in focus and what is not, if so."""
    pairs = [pair for found in splits.values() for pair in found]
    masks = [pair.mask for pair in pairs if pair.mask]
    every = [finding.uniform for found in findings.values() for finding in found]
    uniform = [value for value in every if value is not None]
    if not masks or len(masks) < len(pairs) or len(uniform) < len(every):
        return []
    values = ", ".join(f"{uniform.count(value)} hold {value} alone" for value in sorted(set(uniform)))
    return [
        f"{shown(masks[0].parent)}: no mask has both focus and blur ({values}; {source.white} is drawn white): "
        "look at them, and pass --allow_uniform_masks if that is meant"
    ]


def inspect(pair: sources.Pair) -> Finding:
    """Reads the files of a pair to the last byte."""
    try:
        finding, size, as_stored = _inspect_photograph(pair.image)
    except Undecodable as error:
        return Finding(_undecodable(pair.image, "photograph", error))
    except UserError as error:
        return Finding(str(error))
    path = pair.mask or pair.sharp
    if path is None:
        return finding
    try:
        mask = read_mask(path) if pair.mask else read_map(path)
    except Undecodable as error:
        return Finding(_undecodable(path, "mask" if pair.mask else "map", error))
    except UserError as error:
        return Finding(str(error))
    height, width = mask.shape
    if size != (width, height):
        name = shown(path.name)
        if as_stored == (width, height):
            return Finding(
                f"{shown(pair.image)}: its EXIF tag turns it to {size[0]}x{size[1]}, but {name} is "
                f"{width}x{height}, not turned; turn the mask or remove the tag"
            )
        return Finding(f"{shown(pair.image)}: {size[0]}x{size[1]}, but {name} is {width}x{height}")
    if pair.mask is None:
        return finding
    low, high = int(mask.min()), int(mask.max())
    grays = bool(((mask != 0) & (mask != 255)).any())
    return dataclasses.replace(finding, gray_mask=grays, uniform=low if low == high else None)


def _inspect_photograph(path: Path) -> tuple[Finding, tuple[int, int], tuple[int, int]]:
    """What a photograph is like, its (width, height) upright, and as it is stored."""
    encoded = read_bytes(path)
    with opened(path, encoded) as picture, in_turn(picture.width * picture.height):
        as_stored, changed = picture.size, conversion(path, picture)
        photo, remark = upright_rgb(path, picture, encoded)
        return Finding(None, changed, remark=remark, fingerprint=fingerprint(photo)), photo.size, as_stored


def _undecodable(path: Path, what: str, error: Undecodable) -> str:
    if error.reason == "empty":
        return str(error)
    return f"{shown(path)}: cannot be decoded as a {what} ({error.reason}); copy it again"


def fingerprint(photo: Image.Image) -> bytes:
    """64-bit perceptual hash: the signs of the lowest 8x8 DCT coefficients about their median (Zauner 2010)."""
    small = np.asarray(photo.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    low[0] = 0  # the mean brightness says nothing
    return np.packbits(low > np.median(low)).tobytes()


def duplicates(
    splits: dict[str, list[sources.Pair]], findings: dict[str, list[Finding]]
) -> list[tuple[sources.Pair, sources.Pair, int]]:
    """Training photographs that are, or nearly are, test photographs too, with the bits in which the hashes differ."""
    if not splits.get("train") or not splits.get("test"):
        return []
    train, test = (
        np.frombuffer(b"".join(f.fingerprint for f in findings[split]), np.uint8).reshape(-1, 8)
        for split in ("train", "test")
    )
    found = []
    for pair, bits in zip(splits["train"], train, strict=True):
        distance = np.bitwise_count(test ^ bits).sum(1)
        nearest = int(distance.argmin())
        if distance[nearest] <= NEAR_IDENTICAL_BITS:
            found.append((pair, splits["test"][nearest], int(distance[nearest])))
    return found


def remarks(
    source: sources.Source, splits: dict[str, list[sources.Pair]], findings: dict[str, list[Finding]]
) -> list[str]:
    """Warnings about files that can be used: what was converted, thresholded, or differs from what was published."""
    out = []
    pairs = [pair for found in splits.values() for pair in found]
    everything = [f for split in splits for f in findings[split]]
    gray = [pair.mask for pair, f in zip(pairs, everything, strict=True) if f.gray_mask and pair.mask]
    if gray:
        names = ", ".join(shown(mask.name) for mask in gray[:3]) + (", ..." if len(gray) > 3 else "")
        out.append(f"{len(gray)} mask(s) hold grays and were cut at 127: {names}")
    mapped = [pair.sharp is not None for pair in pairs]
    if any(mapped) and not all(mapped):
        out.append(f"{mapped.count(False)} photograph(s) have no map and count as sharp all over")
    for what, count in sorted(Counter(f.conversion for f in everything if f.conversion).items()):
        out.append(f"{count} photograph(s) {what}")
    out += [finding.remark for finding in everything if finding.remark]
    for split, count in source.count.items():
        if len(splits.get(split, [])) != count:
            out.append(f"{split}: {len(splits.get(split, []))} photographs, where {count} were published")
    return out
