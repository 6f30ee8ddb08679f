"""Names, lists of names, and what the operating system refuses."""

import errno
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxdbd.errors import UserError
from jaxdbd.machine.files import (
    disk_is_full,
    files_by_stem,
    os_error,
    read_names,
    read_text,
    refusal,
    shown,
    shown_apart,
    stem_key,
    write_whole,
)

SUFFIXES = {".jpg", ".png"}
NFC, NFD = unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")


def test_names_are_compared_in_one_form():
    assert NFC != NFD
    assert stem_key(NFC, SUFFIXES) == stem_key(NFD, SUFFIXES) == "é"
    assert stem_key("STRASSE.JPG", SUFFIXES) == stem_key("straße.png", SUFFIXES)
    assert stem_key("IMG_2024.01.01", SUFFIXES) == stem_key("img_2024.01.01.jpg", SUFFIXES) == "img_2024.01.01"


def test_names_that_look_the_same_are_shown_with_their_difference(tmp_path):
    assert shown_apart(NFC, NFD) == (r"\xe9.jpg", r"e\u0301.jpg")
    assert shown_apart("a.jpg", "b.jpg") == ("a.jpg", "b.jpg")
    for name in (NFC, NFD):
        (tmp_path / name).write_bytes(b"x")
    if len(list(tmp_path.iterdir())) == 2:  # some file systems take them for one
        _, twice = files_by_stem(tmp_path, SUFFIXES)
        assert len(twice) == 1


def test_names_are_shown_in_one_line():
    assert shown(os.fsdecode(b"caf\xe9 \n\x1b[2J.jpg")) == r"caf\xe9 \n\x1b[2J.jpg"
    assert shown("naïve 写真.jpg") == "naïve 写真.jpg"


def test_folders_pipes_and_hidden_files_are_no_photographs_but_dangling_links_are(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / ".hidden.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "a.png").write_bytes(b"")
    found, twice = files_by_stem(tmp_path, SUFFIXES)
    assert sorted(found) == ["a", "gone", "loop"]
    assert not twice


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_every_encoding_of_unicode(tmp_path, encoding):
    path = tmp_path / "names.txt"
    path.write_bytes("first.jpg\r\nNaïve.PNG\r\n\r\nIMG_2024.01.01\r\n".encode(encoding))
    assert list(read_names(path, SUFFIXES)) == ["first", "naïve", "img_2024.01.01"]


def test_folders_in_a_list_do_not_count(tmp_path):
    (tmp_path / "names.txt").write_text("image/a.jpg\n.\\image\\B.JPG\n")
    assert read_names(tmp_path / "names.txt", SUFFIXES) == {"a": "image/a.jpg", "b": ".\\image\\B.JPG"}


def test_other_lists_are_one_line(tmp_path):
    path = tmp_path / "names.txt"
    for content, message in (
        ("first.jpg\nNaïve.png\n".encode("cp1252"), r"names.txt: line 2 .*0xef.*save it as UTF-8"),
        (b"\xff\xfea", "neither UTF-8 nor UTF-16"),
        (b"", "empty"),
        (b"\xef\xbb\xbf\n \n", "empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_names(path, SUFFIXES)
        assert "\n" not in str(caught.value)
    for missing, message in ((tmp_path / "no.txt", "no list of names"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=message):
            read_names(missing, SUFFIXES)


def test_the_longest_name_can_be_written_and_a_longer_one_is_one_line(tmp_path):
    write_whole(tmp_path / ("a" * 255), b"x")
    with pytest.raises(UserError, match=r"File name too long \(give it a shorter name\)"):
        write_whole(tmp_path / ("a" * 256), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_a_pipe_gets_all_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # as /dev/stdout may be one
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit((tmp_path / "pipe").read_bytes)
        write_whole(tmp_path / "pipe", b"all of it")
        assert got.result() == b"all of it"
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t.csv").symlink_to("elsewhere/t.csv")
    for content in (b"new", b"again"):
        write_whole(tmp_path / "t.csv", content)
        assert (tmp_path / "elsewhere" / "t.csv").read_bytes() == content
    assert (tmp_path / "t.csv").is_symlink()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["t.csv"]


def test_a_text_in_another_encoding_is_one_line(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "a.json") == "{}"
    (tmp_path / "a.json").write_bytes("{}".encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.json: not a text in UTF-8 \(byte 0 is 0xff\)"):
        read_text(tmp_path / "a.json")


def test_a_folder_in_the_files_place(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json: cannot be written: Is a directory"):
        write_whole(tmp_path / "a.json", "x")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        write_whole(tmp_path / "file" / "a.json", "x")


def test_what_the_system_refuses_is_told_from_faults_of_ours(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert refusal(full) == "failed: No space left on device (free some space, and run it again)"
    assert refusal(ValueError(f'RESOURCE: writing "{tmp_path}/x": {full.strerror} [28]')).startswith(f"{tmp_path}/x: ")
    assert refusal(UserError("a line")) == "a line"
    for fault in (ValueError("a bug"), KeyError("x"), ZeroDivisionError()):
        assert refusal(fault) is None
    (tmp_path / "gone").symlink_to("nowhere")
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(tmp_path / "gone"))
    assert "a link to nowhere, which is not there" in str(os_error(missing))
    assert disk_is_full(full)
    assert not disk_is_full(missing)
