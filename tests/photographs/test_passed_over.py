"""Pictures in folders that are passed over for their endings: told once, with a count."""

import pytest
from fake_benchmark import write_benchmark
from odd_files import brightness, half, ramp, save

from data import build
from jaxdbd.__main__ import main
from jaxdbd.photographs.photos import find_photographs, warn_of_passed_over

LINE = "warning: {}: {} pictures passed over for their endings ({}): save them as JPEG, PNG or TIFF to have them read\n"


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "in" / "a.jpg", ramp())
    save(tmp_path / "in" / "b.JPE", ramp(), format="JPEG")
    for name in ("c.jxl", "d.JXL", "e.jp2", "f.psd", ".hidden.psd", "g.txt", "below/h.nef", "below/.cache/i.nef"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "in" / "folder.psd").mkdir()
    return tmp_path / "in"


def test_they_are_counted_by_ending(folder, capsys):
    warn_of_passed_over(folder)
    assert capsys.readouterr().err == LINE.format(folder, 4, "1 .jp2, 2 .jxl, 1 .psd")
    warn_of_passed_over(folder, recursive=True)
    assert capsys.readouterr().err == LINE.format(folder, 5, "1 .jp2, 2 .jxl, 1 .nef, 1 .psd")
    warn_of_passed_over(folder / "below" / ".cache")
    assert capsys.readouterr().err == LINE.format(folder / "below" / ".cache", 1, "1 .nef")


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path, capsys):
    save(tmp_path / "a.jpg", ramp())
    (tmp_path / "a.xmp").write_text("")
    warn_of_passed_over(tmp_path)
    warn_of_passed_over(tmp_path / "nowhere")
    assert capsys.readouterr().err == ""


def test_jpe_is_jpeg(folder, tmp_path):
    assert {path.name for path in find_photographs([str(folder)], tmp_path / "out")} == {"a.jpg", "b.JPE"}


def test_predict_score_and_app_tell(folder, tmp_path, monkeypatch, capsys):
    told = LINE.format(folder, 4, "1 .jp2, 2 .jxl, 1 .psd")
    weights = brightness(monkeypatch, tmp_path)
    assert main(["predict", str(folder), f"--out={tmp_path / 'out'}", f"--weights={weights}"]) == 0
    assert capsys.readouterr().err.count(told) == 1
    save(tmp_path / "gt" / "a.png", half())
    save(tmp_path / "gt" / "b.png", half())
    assert main(["score", f"--pred={folder}", f"--gt={tmp_path / 'gt'}", "--gt_white=focus"]) in (0, 1)
    assert capsys.readouterr().err.count(told) == 1
    pytest.importorskip("nicegui", reason="needs nicegui: pip install 'jaxdbd[app]'")
    assert main(["app", f"--folder={folder / 'below'}", f"--weights={weights}"]) == 1  # no photograph in it
    assert LINE.format(folder / "below", 1, "1 .nef") in capsys.readouterr().err


def test_build_tells(tmp_path, capsys):
    write_benchmark(tmp_path / "raw", 3)
    for name in ("image/x.jxl", "gt/x.psd"):
        (tmp_path / "raw" / name).write_bytes(b"")
    flags = ["--dataset=folder", "--gt_white=focus", f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'd'}"]
    assert build.main(flags) == 0
    told = capsys.readouterr().err
    assert told.count(LINE.format(tmp_path / "raw" / "image", 1, "1 .jxl")) == 1
    assert told.count(LINE.format(tmp_path / "raw" / "gt", 1, "1 .psd")) == 1
    flags = ["--dataset=synthetic", "--train_scenes=1", "--test_scenes=0", f"--textures={tmp_path / 'raw' / 'image'}"]
    assert build.main([*flags, "--size=64", f"--data_dir={tmp_path / 'd'}"]) == 0
    assert capsys.readouterr().err.count(LINE.format(tmp_path / "raw" / "image", 1, "1 .jxl")) == 1
