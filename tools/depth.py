"""Measures how much of the teacher's depth networks have learned (docs/ablation.md, jaxdbd/weights/bundled/lite.md).

    python -m tools.depth --dataset=dbd/cuhk --split='train[:60]' WEIGHTS...

For each network the correlation, over the pixels of a photograph, between its depth and the teacher's, and how much
either varies within a photograph (standard deviation); means over the photographs.
"""

import argparse
import sys

import numpy as np

import jaxdbd
from jaxdbd.input.geometry import to_size
from jaxdbd.input.pipeline import decode, open_split
from jaxdbd.machine.startup import exit_status


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="How much of the teacher's depth networks have learned.")
    parser.add_argument("weights", nargs="+", help="as for `jaxdbd predict`")
    parser.add_argument("--dataset", default="dbd/cuhk")
    parser.add_argument("--split", default="train[:60]")
    parser.add_argument("--data_dir")
    args = parser.parse_args()
    examples = [decode(record) for record in open_split(args.dataset, args.split, args.data_dir)]
    teachers = [to_size(e.depth.astype(np.float32), e.mask.shape) for e in examples if e.depth is not None]
    if len(teachers) < len(examples):
        parser.error(f"{args.dataset} was built without a teacher")
    for name in args.weights:
        model, variables = jaxdbd.load(name)
        if not model.depth_head:
            print(f"{name}: no depth head")
            continue
        predictions = jaxdbd.predict(model, variables, [e.image for e in examples])
        pairs = [(np.asarray(p.depth), teacher) for p, teacher in zip(predictions, teachers, strict=True)]
        correlation = np.mean([np.corrcoef(ours.ravel(), teacher.ravel())[0, 1] for ours, teacher in pairs])
        ours, teacher = np.mean([[depth.std() for depth in pair] for pair in pairs], axis=0)
        print(f"{name}: correlation {correlation:.2f}, spread {ours:.3f}, the teacher's {teacher:.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
