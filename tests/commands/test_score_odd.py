"""`jaxdbd score` on masks and maps that are not what they seem, and where its results cannot be written."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from odd_files import half, one_line, save, without_rights
from odd_masks import NO_MASKS

from jaxdbd.__main__ import main


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Perfect maps of two masks, white = focus."""
    for name in ("a", "b"):
        for place in ("pred", "gt"):
            save(tmp_path / place / f"{name}.png", half())
    return tmp_path / "pred", tmp_path / "gt"


def score(folders, *flags) -> int:
    return main(["score", f"--pred={folders[0]}", f"--gt={folders[1]}", "--gt_white=focus", *map(str, flags)])


@pytest.mark.parametrize("kind", NO_MASKS)
def test_what_is_no_mask_is_refused(folders, kind, capsys):
    picture, _ = NO_MASKS[kind]
    path = folders[1] / "a.png"
    if kind == "floating point":
        path.unlink()
        path = folders[1] / "a.tif"
    save(path, picture)
    assert score(folders) == 1
    one_line(capsys.readouterr().err, str(path))


def test_maps_in_colors_and_in_0_and_1_are_refused(folders, capsys):
    save(folders[0] / "a.png", np.dstack([half(), half() * 0, half() * 0]))
    assert score(folders) == 1
    one_line(capsys.readouterr().err, "pred/a.png: holds colors such as (255, 0, 0)")
    for name in ("a", "b"):
        save(folders[0] / f"{name}.png", half() // 255)
    assert score(folders) == 1
    one_line(capsys.readouterr().err, "no map has a value over 1 of 255")


def test_several_refused_files_are_counted(folders, capsys):
    for name in ("a", "b"):
        save(folders[1] / f"{name}.png", half() // 255)
    assert score(folders) == 1
    one_line(capsys.readouterr().err, "gt/a.png: holds 0 and 1", "1 more of 2 pairs")


@pytest.mark.parametrize("shape", [(60, 40), (320, 213)])
def test_a_map_on_its_side_is_refused(folders, shape, capsys):
    save(folders[0] / "a.png", half(*shape))
    assert score(folders) == 1
    one_line(capsys.readouterr().err, f"a.png: {shape[1]}x{shape[0]}, but its mask is 60x40, turned by 90 degrees")


def test_a_square_map_of_any_mask_is_resized(folders, capsys):
    save(folders[0] / "a.png", half(320, 320))
    assert score(folders) == 0
    assert "1 of 2 maps" in capsys.readouterr().out


def test_masks_all_of_one_value_need_a_flag(folders, capsys):
    for name, value in (("a", 0), ("b", 255)):
        save(folders[1] / f"{name}.png", half() * 0 + np.uint8(value))
    assert score(folders) == 1
    one_line(capsys.readouterr().err, "no mask has both focus and blur", "--allow_uniform_masks")
    assert score(folders, "--allow_uniform_masks") == 0


def test_names_in_two_normal_forms_and_a_list_in_utf16(folders, tmp_path, capsys):
    save(folders[0] / unicodedata.normalize("NFD", "é.png"), half())
    save(folders[1] / unicodedata.normalize("NFC", "É.png"), half())
    (tmp_path / "names.txt").write_bytes("é.jpg\r\na\r\n".encode("utf-16"))
    assert score(folders, f"--names={tmp_path}/names.txt", f"--json={tmp_path}/s.json") == 0
    assert json.loads((tmp_path / "s.json").read_text())["n"] == 2
    (tmp_path / "names.txt").write_bytes("é.jpg\n".encode("cp1252"))
    assert score(folders, f"--names={tmp_path}/names.txt") == 1
    one_line(capsys.readouterr().err, "line 1", "save it as UTF-8")


def test_results_onto_a_folder_are_one_line(folders, tmp_path, capsys):
    assert score(folders, f"--json={tmp_path}") == 1
    one_line(capsys.readouterr().err, f"{tmp_path}: cannot be written: Is a directory")


@pytest.mark.slow
def test_what_may_not_be_read_or_written_is_one_line(folders, tmp_path):
    (tmp_path / "readonly").mkdir(mode=0o555)
    code = "import sys; from jaxdbd.__main__ import main; sys.exit(main(['score', '--gt_white=focus', *sys.argv[1:]]))"
    flags = [f"--pred={folders[0]}", f"--gt={folders[1]}"]
    done = without_rights(code, *flags, f"--json={tmp_path}/readonly/s.json")
    one_line(done.stderr, "readonly/s.json: cannot be written: Permission denied")
    (folders[1] / "a.png").chmod(0)
    one_line(without_rights(code, *flags).stderr, "gt/a.png: cannot be read: Permission denied")
