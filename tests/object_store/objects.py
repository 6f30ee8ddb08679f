"""What the tests of object stores look at: the names of objects, and what a command writes."""

from jaxdbd.machine.paths import as_path, filesystem
from jaxdbd.machine.transfer import list_objects

BUILD = ["--dataset=synthetic", "--teacher=scene", "--size=64", "--train_scenes=24", "--test_scenes=6"]


def names(folder: str) -> set[str]:
    """Of the objects below a folder."""
    return set(list_objects(as_path(folder)))


def remove(path: str) -> None:
    filesystem(as_path(path)).rm_file(path)


def one_line(text: str) -> str:
    """The only line that was written but for progress and what Google's library says of a machine of ours."""
    lines = [line for part in text.splitlines() for line in part.split("\r")]
    lines = [x for x in lines if x.strip() and not x.startswith(("WARNING:google", "I1", "I0")) and "%|" not in x]
    assert len(lines) == 1, text
    return lines[0]
