"""The commands that README.md prints, for the tests that run them."""

import re
import shlex
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def commands_for_several_devices() -> list[list[str]]:
    """The flags of every printed `train.py --config=configs/default.py` with a batch size, after its --workdir."""
    lines = README.read_text().replace("\\\n", " ").splitlines()
    printed = [shlex.split(re.sub(r"\s#.*", "", line)) for line in lines if "python train.py " in line]
    commands = [words[words.index("train.py") + 1 :] for words in printed]
    found = [flags for flags in commands if any(flag.startswith("--config.batch_size=") for flag in flags)]
    assert all(flags[:2] == ["--config=configs/default.py", "--workdir=DIR"] for flags in found)
    return [flags[2:] for flags in found]
