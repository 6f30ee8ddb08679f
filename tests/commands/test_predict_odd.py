"""`jaxdbd predict` on files that people really have: nothing ends a batch, and the table holds what was done."""

import csv
import itertools
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from odd_files import (
    LONG,
    NOT_UTF8,
    brightness,
    camera_raw,
    one_line,
    ramp,
    save,
    small_disk,  # noqa: F401
    tiny_weights,
    without_rights,
)
from PIL import Image

import jaxdbd
from jaxdbd.__main__ import main
from jaxdbd.photographs import predicted
from jaxdbd.photographs.photos import read_photograph


@pytest.fixture
def weights_file(monkeypatch, tmp_path) -> Path:
    return brightness(monkeypatch, tmp_path)


def run(weights_file, *arguments) -> int:
    return main(["predict", *map(str, arguments), "--weights", str(weights_file)])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return {os.path.basename(row["path"]): row for row in csv.DictReader(file)}


def test_names_that_are_not_utf8_are_in_the_table_as_on_disk(weights_file, tmp_path, capsys):
    try:
        save(tmp_path / "in" / f"{NOT_UTF8}.jpg", ramp())
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")
    (tmp_path / "in" / f"{NOT_UTF8}2.jpg").write_bytes(b"no picture")
    table = tmp_path / "t.csv"
    report = tmp_path / "r.html"
    assert run(weights_file, tmp_path / "in", "--out", tmp_path / "out", "--csv", table, "--report", report) == 1
    assert b"/in/caf\xe9.jpg,0.5" in table.read_bytes()
    assert r"caf\xe92.jpg: not a picture" in capsys.readouterr().err
    assert (tmp_path / "out" / f"{NOT_UTF8}.png").exists()
    assert report.exists()


def test_one_name_too_long_does_not_end_the_batch(weights_file, tmp_path, capsys):
    for name in ("a", LONG, "z"):
        save(tmp_path / "in" / f"{name}.jpg", ramp())
    table = tmp_path / "t.csv"
    assert run(weights_file, tmp_path / "in", "--out", tmp_path / "out", "--csv", table) == 0  # LONG.png fits
    flags = ["--out", tmp_path / "more", "--csv", table, "--overlay"]
    assert run(weights_file, tmp_path / "in", *flags) == 1
    one_line(capsys.readouterr().err, LONG, "File name too long")
    found = rows(table)
    assert {name: bool(row["error"]) for name, row in found.items()} == {
        "a.jpg": False,
        f"{LONG}.jpg": True,
        "z.jpg": False,
    }
    assert len(list((tmp_path / "more").glob("*.overlay.jpg"))) == 2
    assert not list((tmp_path / "more").glob(".*"))


def test_dangling_links_raw_and_dark_photographs_are_named(weights_file, tmp_path, capsys):
    folder = tmp_path / "in"
    save(folder / "a.jpg", ramp())
    save(folder / "dark.png", ramp()[..., 0].astype(np.uint16) * 16)
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "x.png").mkdir()
    camera_raw(folder / "b.nef")
    table = tmp_path / "t.csv"
    flags = ["--out", folder / "maps", "--csv", table]
    assert run(weights_file, folder, folder / "b.nef", *flags) == 1
    errors = {name: row["error"] for name, row in rows(table).items()}
    assert "nowhere.jpg, which is not there" in errors["gone.jpg"]
    assert "symbolic links" in errors["loop.jpg"]
    assert "RAW: convert it first" in errors["b.nef"].replace(", as the camera's sensor saw it", "")
    assert errors["a.jpg"] == errors["dark.png"] == ""
    assert set(errors) == {"a.jpg", "b.nef", "dark.png", "gone.jpg", "loop.jpg"}
    assert f"warning: {folder / 'dark.png'}: its largest value is 4080 of 65535" in capsys.readouterr().err


def test_a_folder_in_the_tables_place_is_said_before_anything_is_done(weights_file, tmp_path, capsys):
    save(tmp_path / "in" / "a.jpg", ramp())
    assert run(weights_file, tmp_path / "in", "--out", tmp_path / "out", "--csv", tmp_path / "in") == 1
    one_line(capsys.readouterr().err, f"{tmp_path / 'in'}: cannot be written: Is a directory")
    assert not (tmp_path / "out").exists()


def test_a_table_never_takes_the_place_of_a_photograph_or_of_the_other(weights_file, tmp_path, capsys):
    before = save(tmp_path / "in" / "a.jpg", ramp()).read_bytes()
    place = [tmp_path / "in", "--out", tmp_path / "out"]
    assert run(weights_file, *place, "--csv", tmp_path / "in" / "a.jpg") == 1
    one_line(capsys.readouterr().err, f"--csv={tmp_path}/in/a.jpg: that is a photograph to be read")
    assert run(weights_file, *place, "--csv", tmp_path / "t", "--report", tmp_path / "in" / ".." / "t") == 1
    one_line(capsys.readouterr().err, "/t: that is --csv; give it another name")
    assert (tmp_path / "in" / "a.jpg").read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_photograph_through_a_pipe(weights_file, tmp_path):
    content = save(tmp_path / "a.png", ramp()).read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert run(weights_file, tmp_path / "pipe", "--out", tmp_path / "out", "--overlay", "--depth") == 0
    writer.join()
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"pipe.png", "pipe.overlay.jpg", "pipe.depth.png"}
    assert abs(np.asarray(Image.open(tmp_path / "out" / "pipe.png")).astype(int) - ramp()[..., 0]).max() <= 4


def test_a_full_disk_is_one_line_and_the_table_holds_what_was_done(weights_file, tmp_path, small_disk, capsys):  # noqa: F811
    rng = np.random.default_rng(0)
    for i in range(12):
        save(tmp_path / "in" / f"{i:02d}.png", rng.integers(0, 256, (240, 320, 3), np.uint8))
    table = tmp_path / "t.csv"
    assert run(weights_file, tmp_path / "in", "--out", small_disk, "--csv", table, "--overlay") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "No space left on device (free some space" in error.splitlines()[-1]
    done = {name: row for name, row in rows(table).items() if not row["error"]}
    assert 0 < len(done) < 12
    assert {f"{Path(name).stem}.png" for name in done} <= {path.name for path in small_disk.iterdir()}
    for name in done:
        assert (small_disk / f"{Path(name).stem}.overlay.jpg").exists()


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, though a shell that runs the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_the_rows_of_what_is_done(weights_file, tmp_path, monkeypatch, stop):
    for i in range(64):
        save(tmp_path / "in" / f"{i}.png", ramp())
    write, calls = predicted.write_prediction, itertools.count(1)  # its next number is one thread's alone

    def stopping(*args):
        call = next(calls)
        if call == 3:
            number = signal.SIGINT if stop is KeyboardInterrupt else signal.SIGTERM
            signal.pthread_kill(threading.main_thread().ident, number)  # Ctrl-C wakes that one, too
        elif call > 3:
            time.sleep(0.5)  # so that the main thread hears of it before all is written, however busy the machine
        return write(*args)

    monkeypatch.setattr("jaxdbd.commands.predict.write_prediction", stopping)
    table = tmp_path / "t.csv"
    command = [tmp_path / "in", "--out", tmp_path / "out", "--csv", table]
    if stop is KeyboardInterrupt:
        assert run(weights_file, *command) == 130
    else:
        with pytest.raises(SystemExit) as caught:
            run(weights_file, *command)
        assert caught.value.code == 143
    assert {Path(name).stem for name in rows(table)} == {path.stem for path in (tmp_path / "out").iterdir()}
    assert 3 <= len(rows(table)) < 64


@pytest.mark.slow
def test_the_command_and_the_function_agree_on_a_large_jpeg(tmp_path):
    for name, picture in (("cat", skimage.data.cat()), ("coffee", skimage.data.coffee())):
        picture = Image.fromarray(picture)
        save(tmp_path / "in" / f"{name}.jpg", picture.resize((9 * picture.width, 9 * picture.height)), quality=92)
    assert main(["predict", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    model, variables = jaxdbd.load("lite")
    for name in ("cat", "coffee"):
        image = np.asarray(read_photograph(tmp_path / "in" / f"{name}.jpg"))
        focus = np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) / 255
        assert abs(focus - jaxdbd.predict(model, variables, image).focus).mean() < 0.005


@pytest.mark.slow
def test_what_may_not_be_read_is_one_line(tmp_path):
    weights_file = tiny_weights(tmp_path)
    save(tmp_path / "in" / "a.jpg", ramp())
    save(tmp_path / "in" / "locked.jpg", ramp()).chmod(0)
    save(tmp_path / "in" / "sub" / "b.jpg", ramp()).parent.chmod(0)
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights_file.read_bytes())
    other.chmod(0)
    (tmp_path / "readonly").mkdir(mode=0o555)
    code = "import sys; from jaxdbd.__main__ import main; sys.exit(main(['predict', *sys.argv[1:]]))"
    try:
        flags = ["--recursive", "--csv", tmp_path / "t.csv"]
        done = without_rights(code, tmp_path / "in", "--out", tmp_path / "out", "--weights", weights_file, *flags)
        assert done.returncode == 1, done.stderr
        errors = {name: row["error"] for name, row in rows(tmp_path / "t.csv").items()}
        assert errors["a.jpg"] == ""
        for name in ("locked.jpg", "sub"):
            assert "cannot be read: Permission denied" in errors[name]
        done = without_rights(code, tmp_path / "in", "--out", tmp_path / "out", "--weights", other)
        one_line(done.stderr, f"{other}: cannot be read: Permission denied")
        done = without_rights(code, tmp_path / "in", "--out", tmp_path / "readonly" / "out", "--weights", weights_file)
        one_line(done.stderr, f"{tmp_path / 'readonly' / 'out'}: cannot be made a folder: Permission denied")
    finally:
        (tmp_path / "in" / "sub").chmod(0o755)
