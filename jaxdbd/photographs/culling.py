"""How sharp a photograph is to a photographer, from its focus map: what sorts a contact sheet, and what filters it.

The share in focus does not tell: it is small in a portrait that is sharp on the eyes, and large in a snapshot that is
sharp on the wall behind. What counts is whether one thing is surely in focus, and whether it lies where subjects lie.

The four numbers below are choices of ours. They were tried on the 704 masks of CUHK and on their inverses, which stand
for a camera that focused on the ground: a mask scores above an inverse in 87 % of all pairs (by the share in focus in
9 %), and "subject missed?" is said of 54 % of the inverses and of 4.5 % of the masks.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

ENOUGH = 0.01  # of the photograph: a sharp region of this size counts in full; a face a tenth as wide and as high
NOTHING = 0.005  # of the photograph in focus, or less: nothing is
ALL = 0.95  # of the photograph in focus, or more: all of it is
MISSED = 0.9  # centrality of the sharpest region, or less: the subject was missed

VERDICTS = ("subject in focus", "subject missed?", "nothing in focus", "all in focus")


class Sharpness(NamedTuple):
    """What `sharpness` found; all of it in [0, 1]."""

    score: float
    share: float  # of the photograph that is in focus
    centrality: float  # of the region that has the score; 0 without one


def sharpness(focus: Float32[np.ndarray, "h w"], threshold: float) -> Sharpness:
    """The score of the best region in focus: certainty x size x centrality, each in [0, 1].

    `focus` is the probability of being in focus, in any proportions; a region is a connected set of pixels above
    `threshold`, in [0, 1).

    - certainty: how far above the threshold the region is, 1 = sure: the mean of (focus - threshold) / (1 - threshold),
      weighted by itself, so that soft edges do not speak against a small region.
    - size: its share of the photograph over ENOUGH, at most 1: nothing larger than a face is sharper for it.
    - centrality: the mean over it of sin(pi x) sin(pi y), which is 1 in the middle of the photograph, 3/4 where the
      lines of thirds cross and 0 at its borders; divided by that mean of the whole photograph, at most 1. It is 1 for
      a region on the thirds or a photograph that is sharp all over, and 2/3 for a sharp ground around a blurred middle.
    """
    height, width = focus.shape
    in_focus = focus > threshold
    count, labels = cv2.connectedComponents(in_focus.astype(np.uint8), connectivity=8)
    share = float(in_focus.mean())
    if count == 1:
        return Sharpness(0.0, share, 0.0)

    def sums(values):
        return np.bincount(labels.ravel(), values.ravel(), count)[1:]

    sure = (focus - threshold) / (1 - threshold)
    middle = np.outer(_bump(height), _bump(width))
    areas = sums(np.ones_like(focus))
    certainty = sums(sure * sure) / sums(sure)
    size = np.minimum(1, areas / focus.size / ENOUGH)
    centrality = np.minimum(1, sums(middle) / areas / middle.mean())
    scores = certainty * size * centrality
    best = int(scores.argmax())
    return Sharpness(float(scores[best]), share, float(centrality[best]))


def _bump(n: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(n) + 0.5) / n)


def verdict(found: Sharpness) -> str:
    """One of VERDICTS.

    The subject was missed where something is in focus, and lies further from the middle than subjects do, such as a
    sharp ground around what is blurred. Only position is looked at: a still life at the edge is called missed, too.
    """
    if found.share <= NOTHING:
        return "nothing in focus"
    if found.share >= ALL:
        return "all in focus"
    return "subject missed?" if found.centrality < MISSED else "subject in focus"
