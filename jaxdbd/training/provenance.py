"""What a checkpoint is from: the commit, the datasets by their bytes, and the split that its scores are of."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxdbd.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


class Provenance(NamedTuple):
    """The data of a run, and the code."""

    shards: Mapping[str, str]  # `shards_digest` of each dataset
    evaluated: str  # the split whose MAE picks the weights, and which shards it is of; "" where none does
    revision: str = ""  # `git_revision` when the run began: the checkout may change under it


def provenance(dataset: str, eval_split: str, shards: Mapping[str, str]) -> Provenance:
    """That of a run on a mixture such as 'dbd/cuhk+dbd/refocused', which begins now."""
    built = "+".join(shards[name][:12] for name in dataset.split("+"))
    return Provenance(shards, f"{dataset}:{eval_split} ({built})" if eval_split else "", git_revision())


def check_same_shards(
    folder: os.PathLike, step: int, saved: Mapping[str, str] | None, current: Mapping[str, str], accepts_rebuilt: bool
) -> None:
    """Raises UserError, or warns with `accepts_rebuilt`, where a dataset has changed since a checkpoint.

    One that the checkpoint does not know, since the config named others, is none of it.
    """
    rebuilt = [name for name, digest in (saved or {}).items() if current.get(name, digest) != digest]
    if not rebuilt:
        return
    line = f"{', '.join(rebuilt)}: built anew, with other content, since checkpoint {step} of {os.fspath(folder)}"
    if not accepts_rebuilt:
        raise UserError(f"{line}: take another --workdir, or pass --accept_rebuilt_data to go on with the new one")
    print(f"warning: {line}; the training goes on with the new one", file=sys.stderr)


def counts(metrics: Mapping[str, Any], evaluated: str) -> bool:
    """Whether a checkpoint's metrics are of the split, and the shards, that `Provenance.evaluated` names."""
    return metrics.get("split", evaluated) == evaluated


def git_revision(package: Path = PACKAGE) -> str:
    """The commit that the checkout of `package` stands at, with `+` where it was changed since; '' for none.

    An installed package has none: a repository around it, such as one that holds its environment, is another one.
    """

    def git(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *command], cwd=package, capture_output=True, text=True, check=False)

    try:
        top, head = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    except OSError:  # no git, or no such folder: a package may lie in a zip file
        return ""
    if head.returncode or Path(top.stdout.rstrip("\n")) != package.parent:
        return ""
    return head.stdout.strip() + ("+" if git("diff", "--quiet", "HEAD").returncode else "")
