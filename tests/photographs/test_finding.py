"""Photographs as `predict` finds them, and the names of their maps."""

import os
from pathlib import Path

import pytest
from odd_files import camera_raw, ramp, save

from jaxdbd.errors import UserError
from jaxdbd.photographs.photos import find_photographs, read_photograph


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.jpg", "b c.PNG", "é.webp", "sub/a.jpg", "sub/deep/d.tif"):
        save(tmp_path / "in" / name, ramp())
    (tmp_path / "in" / "notes.txt").write_text("no photograph")
    (tmp_path / "in" / "._a.jpg").write_bytes(b"a desktop's own file")
    (tmp_path / "in" / "folder.jpg").mkdir()
    return tmp_path / "in"


def names(found: dict[Path, Path], folder: Path, out: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): name.relative_to(out).as_posix() for path, name in found.items()}


def test_a_folder_gives_its_photographs_and_recursive_those_below(folder, tmp_path):
    out = tmp_path / "out"
    top = {"a.jpg": "a", "b c.PNG": "b c", "é.webp": "é"}
    assert names(find_photographs([str(folder)], out), folder, out) == top
    below = {"sub/a.jpg": "sub/a", "sub/deep/d.tif": "sub/deep/d"}
    assert names(find_photographs([str(folder)], out, recursive=True), folder, out) == top | below


def test_patterns_files_and_repeats(folder, tmp_path):
    out = tmp_path / "out"
    arguments = [str(folder / "*.jpg"), str(folder / "a.jpg"), str(folder / "sub" / ".." / "a.jpg"), str(folder)]
    (folder / "folder.jpg").rmdir()
    assert set(names(find_photographs(arguments, out), folder, out).values()) == {"a", "b c", "é"}
    assert names(find_photographs([str(folder / "**/d.*")], out), folder, out) == {"sub/deep/d.tif": "d"}
    save(folder / "[1].jpg", ramp())  # looks like a pattern, and is a file
    assert names(find_photographs([str(folder / "[1].jpg")], out), folder, out) == {"[1].jpg": "[1]"}


def test_same_stem_keeps_the_suffix(folder, tmp_path):
    save(folder / "A.png", ramp())
    out = tmp_path / "out"
    assert names(find_photographs([str(folder)], out), folder, out) == {
        "a.jpg": "a.jpg",
        "A.png": "A.png",
        "b c.PNG": "b c",
        "é.webp": "é",
    }


def test_two_photographs_never_write_one_file(folder, tmp_path):
    with pytest.raises(UserError, match="would both write"):
        find_photographs([str(folder / "a.jpg"), str(folder / "sub" / "a.jpg")], tmp_path / "out")
    save(folder / "a.depth.jpg", ramp())
    assert len(find_photographs([str(folder)], tmp_path / "out")) == 4
    with pytest.raises(UserError, match=r"a\.depth\.png"):
        find_photographs([str(folder)], tmp_path / "out", (".png", ".depth.png"))


def test_maps_never_lie_among_photographs(folder, tmp_path):
    for out in (folder, folder / "sub" / ".."):
        with pytest.raises(UserError, match="folder of their own"):
            find_photographs([str(folder)], out)
    with pytest.raises(UserError, match="folder of their own"):
        find_photographs([str(folder / "a.jpg")], folder)


def test_an_output_folder_inside_is_not_read(folder, tmp_path):
    out = folder / "maps"
    before = find_photographs([str(folder)], out, recursive=True)
    for name in before.values():
        save(name.with_name(name.name + ".png"), ramp())
    assert find_photographs([str(folder)], out, recursive=True) == before
    # The other way round, the photographs' folder inside the output folder, is read.
    assert len(find_photographs([str(folder)], folder.parent)) == 3


def test_links_that_lead_nowhere_are_found_and_then_named(folder, tmp_path):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    out = folder / "maps"  # inside
    found = names(find_photographs([str(folder)], out), folder, out)
    assert {"gone.jpg", "loop.jpg"} <= set(found)
    assert "folder.jpg" not in found
    for name, message in (("gone.jpg", "a link to nowhere.jpg, which is not there"), ("loop.jpg", "symbolic links")):
        assert len(find_photographs([str(folder / name)], out)) == 1
        with pytest.raises(UserError, match=message):
            read_photograph(folder / name)


def test_patterns_pass_over_what_is_no_photograph_and_names_what_editors_leave(folder, tmp_path):
    out = tmp_path / "out"
    (folder / "folder.jpg").rmdir()
    for name in ("Thumbs.db", "a.xmp", "b.txt"):
        (folder / name).write_bytes(b"no picture")
    (folder / "scan").write_bytes((folder / "a.jpg").read_bytes())
    camera_raw(folder / "c.nef")
    for name in ("pipe", "pipe.jpg"):
        os.mkfifo(folder / name)  # who opened one would wait
    found = set(
        names(find_photographs([str(folder / "*.*"), str(folder / "sc*"), str(folder / "pi*")], out), folder, out)
    )
    assert found == {"a.jpg", "b c.PNG", "é.webp", "scan", "c.nef"}
    given = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]  # as a shell expands *
    assert set(names(find_photographs(given, out), folder, out)) == found | {"._a.jpg", "b.txt", "notes.txt"}
    with pytest.raises(UserError, match="no photographs"):
        find_photographs([str(folder / "a.xmp")], out)


def test_nothing_to_do_is_said(folder, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no photographs"):
        find_photographs([str(tmp_path / "bare")], tmp_path / "out")
    for missing in ("nowhere.jpg", "*.xyz"):
        with pytest.raises(UserError, match="no such file"):
            find_photographs([str(folder / missing)], tmp_path / "out")
