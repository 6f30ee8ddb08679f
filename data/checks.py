"""What can be wrong with a benchmark's files, found before anything is built and told all at once."""

import dataclasses
import io
import itertools
import sys
import warnings
from collections import Counter

import cv2
import numpy as np
from PIL import Image

from data import sources
from jaxdbd.errors import UserError
from jaxdbd.parallel import parallel_map
from jaxdbd.photos import upright_rgb

# Choice of ours. Copies of a photograph that were scaled or compressed again differ in 0-6 of the 64 bits; the two most
# alike of CUHK's training and test photographs, which show different things, differ in 14.
NEAR_IDENTICAL_BITS = 8


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one pair is like. `problem` is a line that names the file; the rest holds where there is none."""

    problem: str | None = None
    conversion: str | None = None  # what had to be done to the photograph
    grey_mask: bool = False  # the mask holds more than black and white
    fingerprint: bytes = b""  # perceptual hash of the photograph


def check(
    source: sources.Source, splits: dict[str, list[sources.Pair]], problems: list[str], drop_duplicates: bool
) -> dict[str, list[sources.Pair]]:
    """Inspects every pair and prints warnings.

    Args:
        source: where the pairs come from.
        splits: the pairs of each split.
        problems: what is known to be wrong already.
        drop_duplicates: leave out of `train` what is also in `test`.

    Returns:
        The pairs to build from.

    Raises:
        UserError: files that cannot be used; one message with a line for each.
    """
    everything = [pair for pairs in splits.values() for pair in pairs]
    found = iter(list(parallel_map(inspect, everything, "checking files")))
    findings = {split: list(itertools.islice(found, len(pairs))) for split, pairs in splits.items()}
    problems = problems + [f.problem for split in findings.values() for f in split if f.problem]
    if problems:
        raise UserError("\n  ".join([f"{len(problems)} problem(s) in the raw files; nothing was built", *problems]))
    for remark in remarks(source, splits, findings):
        print(f"warning: {remark}", file=sys.stderr)
    same = duplicates(splits, findings)
    if same:
        listing = "\n  ".join(f"{train.image} ~ {test.image} ({bits} of 64 bits differ)" for train, test, bits in same)
        what = "left out of train" if drop_duplicates else "pass --drop_duplicates to leave them out of train"
        print(f"warning: {len(same)} training photograph(s) are also in test; {what}\n  {listing}", file=sys.stderr)
    dropped = {id(train) for train, _, _ in same} if drop_duplicates else set()
    return {split: [pair for pair in pairs if id(pair) not in dropped] for split, pairs in splits.items()}


def inspect(pair: sources.Pair) -> Finding:
    """Reads the files of a pair to the last byte."""
    opened = {}
    for what, path in (("photograph", pair.image), ("mask", pair.mask)):
        if path is None:
            continue
        encoded = path.read_bytes()
        if not encoded:
            return Finding(f"{path}: empty file (0 bytes); copy it again")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
                opened[what] = Image.open(io.BytesIO(encoded))
                opened[what].load()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
            return Finding(f"{path}: cannot be decoded as a {what} ({reason}); copy it again")
        if what == "photograph":
            conversion = sources.conversion(opened[what], encoded)
    as_stored = opened["photograph"].size
    photo = upright_rgb(opened["photograph"])
    if pair.mask is None:
        return Finding(None, conversion, fingerprint=fingerprint(photo))
    mask = sources.grey(opened["mask"])
    height, width = mask.shape
    if photo.size != (width, height):
        if as_stored == (width, height):
            return Finding(
                f"{pair.image}: its EXIF tag turns it to {photo.width}x{photo.height}, but {pair.mask.name} is "
                f"{width}x{height}, not turned; turn the mask or remove the tag"
            )
        return Finding(f"{pair.image}: {photo.width}x{photo.height}, but {pair.mask.name} is {width}x{height}")
    values = np.unique(mask)
    if values[-1] == 1:
        return Finding(f"{pair.mask}: holds 0 and 1 as labels; save it with 0 and 255")
    return Finding(None, conversion, bool(np.setdiff1d(values, [0, 255]).size), fingerprint(photo))


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
    everything = [f for found in findings.values() for f in found]
    grey = [
        pair.mask
        for split in splits
        for pair, f in zip(splits[split], findings[split], strict=True)
        if f.grey_mask and pair.mask
    ]
    if grey:
        names = ", ".join(mask.name for mask in grey[:3]) + (", ..." if len(grey) > 3 else "")
        out.append(f"{len(grey)} mask(s) hold greys and were cut at 127: {names}")
    for what, count in sorted(Counter(f.conversion for f in everything if f.conversion).items()):
        out.append(f"{count} photograph(s) {what}")
    for split, count in source.count.items():
        if len(splits.get(split, [])) != count:
            out.append(f"{split}: {len(splits.get(split, []))} photographs, where {count} were published")
    return out
