"""Measures of focus maps, each under the protocol that published numbers were made with.

Maps and masks are 8-bit, 255 = in focus. Working on the 8-bit map that `predict` writes, and not on the network's
floats, makes every number reproducible from saved maps, and lets the 256 gray levels carry the sums: a measure that
does not look at neighborhoods is an exact function of how many pixels of each level are in focus and how many not.

F = 1.3 P R / (0.3 P + R) throughout (beta^2 = 0.3), written 1.3 TP / (0.3 (TP + FN) + TP + FP), and 0 where TP = 0.

| protocol   | positive | map is positive where          | mask is positive where    | aggregation                     |
|------------|----------|--------------------------------|---------------------------|---------------------------------|
| `ddff`     | blur     | level < 128 (p < 0.5)          | level < 128               | mean of per-image F; IoU pooled |
| `dd`       | focus    | level > min(1.5 mean, 255)     | the same rule on the mask | one F, the set's pixels pooled  |
| `adaptive` | focus    | level >= min(1.5 mean, 255)    | level > 0.1 * 255         | mean of per-image F at 320x320  |
| `max`      | focus    | level/max >= i/255, i = 1..255 | level >= 0.1 * 255        | mean of each image's best F     |

MAE is the same number under all four: mean |p - mask| of an image at the mask's own size, averaged over images, with p
the soft map and the mask cut at 0.5. For `adaptive` map (bilinear with antialiasing, as in Pillow) and mask (nearest)
are resized to 320x320 as 8-bit images before the threshold is taken; SG's script has its masks at that size already.
Sources: `ddff`: D-DFFNet (ICME 2023), test1.py and test_iou1.py. `dd`: Depth Distillation (ECCV 2020), eval.ipynb.
`adaptive`: SG (CVPR 2021), eval.py. `max`: APL (ECCV 2022), Fmeasure_calu.m.

Degenerate cases. Nothing is NaN; an undefined value is None and left out of the mean.
- Mask all in focus: `ddff` F is 0 whatever the map says (there is no blur to find); `dd` finds the mask empty (its
  rule does so from a mean of 2/3 on), so every positive pixel is a false one; `adaptive` and `max` have precision 1.
- Mask all out of focus: `ddff` as usual with precision 1; `dd` gains false positives only; `adaptive` and `max` are 0
  (APL's script swaps the classes there for its first threshold only; we do not).
- Constant map c: `ddff` calls everything blur (c < 128) or nothing; `dd` calls nothing in focus, so F is 0;
  `adaptive` nothing either, but everything if c is 0 or 255, because of its >=; `max` calls everything in focus if
  c > 0 and nothing if c = 0; AUC is 0.5.
- AUC has no value on a mask of one class. IoU is 1 where neither map nor mask has a blurred pixel in the whole set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from jaxdbd.machine.parallel import STRIP
from jaxdbd.scoring.blur import Sample, blur_scores

PROTOCOLS = ("ddff", "dd", "adaptive", "max")
LEVELS = np.arange(256)
BETA2 = 0.3
ADAPTIVE_SIZE = (320, 320)
CALIBRATION_BINS = 15  # of equal width, as in Guo et al., ICML 2017


@dataclass(frozen=True)
class Confusion:
    """Pixel counts. Adding two pools their pixels."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def f(self) -> float:
        """F-measure in [0, 1]; 0 where nothing is both called and truly positive."""
        return float(f_measure(self.tp, self.fp, self.fn))

    @property
    def iou(self) -> float:
        """Intersection over union in [0, 1]; 1 where both sets are empty."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else 1.0


@dataclass(frozen=True)
class ImageScores:
    """What one photograph contributes. Lists of these from several workers merge by joining them.

    levels[0, u] and levels[1, u] are the pixels of level u that the mask has out of and in focus. `structure` holds
    the measures of structure.py, which look at neighborhoods; it stays empty where only counts are wanted.
    """

    id: str
    levels: Int[np.ndarray, "2 256"]
    dd: Confusion
    adaptive_f: float
    max_f: float
    structure: dict[str, float] = field(default_factory=dict)
    e_curve: Float[np.ndarray, " 256"] | None = None
    depth: dict[str, float] = field(default_factory=dict)  # measures of `scoring.depth`, where there is a reference
    blur: Sample | None = None  # where the network has a blur head

    @property
    def ddff(self) -> Confusion:
        """Confusion of the blurred class at 0.5."""
        return ddff_confusion(self.levels)

    def row(self) -> dict[str, str | float | int | None]:
        """The per-image values by name; pixel counts are among them, so that pooled measures can be redone."""
        ddff = self.ddff
        return {
            "id": self.id,
            "mae": mean_absolute_error(self.levels),
            "ddff_f": ddff.f,
            "adaptive_f": self.adaptive_f,
            "max_f": self.max_f,
            "auc": area_under_roc(self.levels),
            **self.structure,
            **{f"depth_{k}": v for k, v in self.depth.items()},
            **{f"ddff_{k}": getattr(ddff, k) for k in ("tp", "fp", "fn")},
            **{f"dd_{k}": getattr(self.dd, k) for k in ("tp", "fp", "fn")},
        }


def f_measure(tp, fp, fn):
    """F with beta^2 = 0.3 (Achanta et al., CVPR 2009) of counts or arrays of counts; 0 where tp is 0."""
    called_and_true = BETA2 * (tp + fn) + tp + fp
    return (1 + BETA2) * tp / np.maximum(called_and_true, 1e-9)


def count_levels(focus: UInt8[np.ndarray, "*at"], in_focus: Bool[np.ndarray, "*at"]) -> Int[np.ndarray, "2 256"]:
    """Pixels of each level of the map, out of focus (row 0) and in focus (row 1)."""
    return joint_levels(focus, in_focus.view(np.uint8))[:2]


def joint_levels(focus: UInt8[np.ndarray, "*at"], mask: UInt8[np.ndarray, "*at"]) -> Int[np.ndarray, "256 256"]:
    """Pixels of each level of the mask (rows) and of the map (columns): every count of a pair follows from it."""
    focus, mask = focus.ravel(), mask.ravel()
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, focus.size, STRIP):  # counting takes eight bytes a pixel
        part = slice(start, start + STRIP)
        counts += np.bincount((mask[part].astype(np.uint16) << 8) | focus[part], minlength=1 << 16)
    return counts.reshape(256, 256)


def of_classes(joint: Int[np.ndarray, "256 256"], in_focus: Bool[np.ndarray, " 256"]) -> Int[np.ndarray, "2 256"]:
    """`count_levels` from `joint_levels`, given which levels of the mask are in focus."""
    return np.stack([joint[~in_focus].sum(axis=0), joint[in_focus].sum(axis=0)])


def at_least(levels: Int[np.ndarray, "2 256"]) -> Int[np.ndarray, "2 256"]:
    """Pixels of level >= t, for every t: the cumulative sum from the top."""
    return np.cumsum(levels[:, ::-1], axis=1)[:, ::-1]


def mean_absolute_error(levels: Int[np.ndarray, "2 256"]) -> float:
    """Mean |p - mask| in [0, 1]."""
    return int(levels[0] @ LEVELS + levels[1] @ (255 - LEVELS)) / (255 * int(levels.sum()))


def ddff_confusion(levels: Int[np.ndarray, "2 256"]) -> Confusion:
    """Confusion of the blurred class at 0.5: level 128 and above is in focus."""
    return Confusion(tp=int(levels[0, :128].sum()), fp=int(levels[1, :128].sum()), fn=int(levels[0, 128:].sum()))


def above_mean(counts: Int[np.ndarray, " 256"], or_equal: bool = False) -> Bool[np.ndarray, " 256"]:
    """Which levels exceed (or reach) min(1.5 * mean, 255), decided in integers: 2 N u > min(3 sum, 510 N)."""
    n, total = int(counts.sum()), int(counts @ LEVELS)
    return (np.greater_equal if or_equal else np.greater)(2 * n * LEVELS, min(3 * total, 510 * n))


def focus_confusion(levels: Int[np.ndarray, "2 256"], positive: Bool[np.ndarray, " 256"]) -> Confusion:
    """Confusion of the in-focus class when the levels of `positive` are called in focus."""
    return Confusion(
        tp=int(levels[1, positive].sum()), fp=int(levels[0, positive].sum()), fn=int(levels[1, ~positive].sum())
    )


def best_f(levels: Int[np.ndarray, "2 256"]) -> float:
    """The best F over 255 thresholds i/255 on the map divided by its maximum (protocol `max`)."""
    largest = int(np.flatnonzero(levels.sum(axis=0))[-1])
    if largest == 0:
        return 0.0
    # level / largest >= i / 255, in integers: the lowest level that passes is the ceiling of i * largest / 255.
    lowest = -(-np.arange(1, 256) * largest // 255)
    fp, tp = at_least(levels)[:, lowest]
    return float(f_measure(tp, fp, levels[1].sum() - tp).max())


def area_under_roc(levels: Int[np.ndarray, "2 256"]) -> float | None:
    """Chance that an in-focus pixel has a higher level than another (ties count half); None for a mask of one class."""
    blurred, focused = levels.sum(axis=1).tolist()
    if blurred == 0 or focused == 0:
        return None
    above = at_least(levels)[1] - levels[1]
    return int(levels[0] @ (2 * above + levels[1])) / (2 * blurred * focused)


def precision_recall(
    levels: Int[np.ndarray, "2 256"],
) -> tuple[Float[np.ndarray, " 256"], Float[np.ndarray, " 256"], Float[np.ndarray, " 256"]]:
    """Precision, recall and F of the in-focus class when level >= t is called in focus, t = 0..255; 0/0 is 0."""
    fp, tp = at_least(levels)
    focused = levels[1].sum()
    return tp / np.maximum(tp + fp, 1), tp / np.maximum(focused, 1), f_measure(tp, fp, focused - tp)


def best_threshold(levels: Sequence[Int[np.ndarray, "2 256"]]) -> float:
    """The probability above which to call a pixel in focus, so that most pixels are called right, averaged over images.

    The best F lies higher, since its weights ask for precision first, and costs a landscape much of its sky.
    """
    # The share of an image's pixels that are called right when level >= t is called in focus, t = 0..255.
    shares = [(tp + x[0].sum() - fp) / x.sum() for x in levels for fp, tp in [at_least(x)]]
    right = np.mean(shares, axis=0)
    # Half a level lower: what rounds to that level passes.
    return (int(right[1:].argmax()) + 0.5) / 255


def calibration_error(levels: Int[np.ndarray, "2 256"]) -> float:
    """Expected calibration error: |share in focus - mean p| per bin of p, weighted by the bin's pixels."""
    bins = np.minimum(LEVELS * CALIBRATION_BINS // 255, CALIBRATION_BINS - 1)
    # Per bin, n |focused / n - sum(p) / n| = |focused - sum(p)|.
    gap = np.bincount(bins, weights=levels[1] - levels.sum(axis=0) * (LEVELS / 255), minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / levels.sum())


def score_counts(id: str, focus: UInt8[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"]) -> ImageScores:
    """All four protocols on one photograph's map and mask (255 = in focus), of one size."""
    joint = joint_levels(focus, mask)
    dd_levels = of_classes(joint, above_mean(joint.sum(axis=1)))
    small = np.asarray(Image.fromarray(focus).resize(ADAPTIVE_SIZE, Image.Resampling.BILINEAR))
    small_mask = np.asarray(Image.fromarray(mask).resize(ADAPTIVE_SIZE, Image.Resampling.NEAREST))
    small_levels = count_levels(small, small_mask > 25)
    return ImageScores(
        id=id,
        levels=of_classes(joint, LEVELS >= 128),
        dd=focus_confusion(dd_levels, above_mean(dd_levels.sum(axis=0))),
        adaptive_f=focus_confusion(small_levels, above_mean(small_levels.sum(axis=0), or_equal=True)).f,
        max_f=best_f(of_classes(joint, LEVELS > 25)),  # 0.1 * 255 = 25.5: `>` of `adaptive` and `>=` of `max` agree
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are defined, independent of their order; None where none is."""
    defined = [v for v in values if v is not None]
    return fsum(defined) / len(defined) if defined else None


def summarize_ddff(levels: Sequence[Int[np.ndarray, "2 256"]]) -> dict[str, float]:
    """MAE, F and IoU under `ddff` of a set, given each image's levels."""
    confusions = [ddff_confusion(x) for x in levels]
    return {
        "mae": fsum(map(mean_absolute_error, levels)) / len(levels),
        "f": fsum(c.f for c in confusions) / len(levels),
        "iou": sum(confusions, Confusion()).iou,
    }


def summarize(images: Sequence[ImageScores]) -> dict:
    """The set's numbers: {"n", protocol: {"mae", "f", ...}, "threshold_free": {...}, "pr_curve": {...}}.

    With depth measures of every image also "depth": {...}, their means; with samples of blur `blur_scores` as "blur".

    `max_f` and `e_max` are the best of the curve averaged over images, thresholds 0..255 (as in pysodmetrics);
    `ece` pools the pixels; `auc` and the rest are means over images.
    """
    ddff = summarize_ddff([x.levels for x in images])
    curves = np.stack([precision_recall(x.levels) for x in images])
    precision, recall, f = curves.mean(axis=0)
    threshold_free = {
        "max_f": float(f.max()),
        "auc": mean([area_under_roc(x.levels) for x in images]),
        "ece": calibration_error(np.sum([x.levels for x in images], axis=0)),
    }
    if all(x.structure for x in images):
        e_curve = np.mean([x.e_curve for x in images if x.e_curve is not None], axis=0)
        threshold_free |= {"e_max": float(e_curve.max())}
        threshold_free |= {name: mean([x.structure[name] for x in images]) for name in images[0].structure}
    summary = {
        "n": len(images),
        "ddff": ddff,
        "dd": {"mae": ddff["mae"], "f": sum((x.dd for x in images), Confusion()).f},
        "adaptive": {"mae": ddff["mae"], "f": mean([x.adaptive_f for x in images])},
        "max": {"mae": ddff["mae"], "f": mean([x.max_f for x in images])},
        "threshold_free": threshold_free,
        "pr_curve": {"precision": precision.tolist(), "recall": recall.tolist()},
    }
    if all(x.depth for x in images):
        summary["depth"] = {name: mean([x.depth[name] for x in images]) for name in images[0].depth}
    if blur := blur_scores([x.blur for x in images if x.blur]):
        summary["blur"] = blur
    return summary


def polarity_warning(results: dict) -> str | None:
    """A line saying that the inverted maps would score far better, or None.

    Inverting a map turns AUC into 1 - AUC and MAE into 1 - MAE. AUC decides where it is defined, because it does not
    depend on how bright the maps are; MAE decides where every mask has one class only.
    """
    auc, mae = results["threshold_free"]["auc"], results["ddff"]["mae"]
    if auc is not None and auc < 0.4:
        gain = f"AUC {auc:.3f} would become {1 - auc:.3f}, MAE {mae:.3f} would become {1 - mae:.3f}"
    elif auc is None and mae > 0.6:
        gain = f"MAE {mae:.3f} would become {1 - mae:.3f}"
    else:
        return None
    return f"warning: the inverted maps score far better ({gain}): check --pred_white and --gt_white"
