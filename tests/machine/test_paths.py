"""Paths as users name them: which are taken, and that no local folder ever gets a scheme's name."""

import importlib.util
import os
import pwd
import tempfile
from pathlib import Path

import pytest
from etils import epath

from jaxdbd.errors import UserError
from jaxdbd.machine import files, paths


@pytest.mark.parametrize("text", ["a/b.json", "/a/b", "hf:MODEL", "C:/x", "a/~/x", "~$x.jpg", ".", "pypi:vgg16"])
def test_local_paths_are_themselves(text):
    path = paths.as_path(text)
    assert isinstance(path, epath.Path)
    assert os.fspath(path) == text
    assert not paths.is_remote(path)
    assert paths.local_path(text) == Path(text)
    assert paths.as_path(Path(text)) == path


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    of_root = f"{pwd.getpwnam('root').pw_dir}/a"
    for text, expected in (("~", "/home/someone"), ("~/a/*.jpg", "/home/someone/a/*.jpg"), ("~root/a", of_root)):
        assert os.fspath(paths.as_path(text)) == expected
        assert paths.local_path(text) == Path(expected)


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME and without an entry in passwd."""

    def getpwuid(_number):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)


def test_a_user_without_a_home_keeps_copies_in_tmpdir_and_has_no_tilde(homeless, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert paths.cache_folder() == tmp_path / f"jaxdbd-{os.getuid()}"
    assert paths.home_cache() is None
    assert paths.cache_folder("/c") == Path("/c")
    for parse in (paths.as_path, paths.local_path, paths.cache_folder):
        with pytest.raises(UserError, match=r"^~/x: this user has no home folder: write the path out$"):
            parse("~/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://host/x", "give a local one, or gs://BUCKET/NAME"),
        ("gcs://b/x", "give a local one, or gs://BUCKET/NAME"),
        ("gs:/b/x", "give a local one, or gs://BUCKET/NAME"),
        ("gs://", "names no bucket"),
        ("gs:///x", "names no bucket"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        paths.as_path(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="only a local path"):
        paths.local_path(text)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "'jaxdbd[gcs]'"), ("s3", "s3fs"), ("az", "adlfs")])
def test_a_missing_library_is_one_line_with_the_command(scheme, package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.endswith("fs") else find(name))
    with pytest.raises(UserError) as caught:
        paths.as_path(f"{scheme}://bucket/x")
    told = f"{scheme}://bucket/x: {scheme}:// needs a package that is not installed: pip install {package}"
    assert str(caught.value) == told


def test_no_local_folder_gets_a_schemes_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mangled = Path("gs://bucket/x")  # pathlib takes one slash away
    for write in (
        lambda: files.write_whole(mangled, "x"),
        lambda: files.make_folder(mangled),
        lambda: files.whole_file(mangled).__enter__(),
        lambda: files.output_folder(mangled).__enter__(),
    ):
        with pytest.raises(UserError, match="not a path that can be read here"):
            write()
    assert not list(tmp_path.iterdir())


def test_the_cache_mirrors_what_it_copies(monkeypatch, tmp_path):
    pytest.importorskip("gcsfs", reason="needs the optional extra: pip install 'jaxdbd[gcs]'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_folder() == tmp_path / "jaxdbd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.cache_folder() == Path("/home/someone/.cache/jaxdbd")
    assert paths.cache_folder("~/c") == Path("/home/someone/c")
    remote = paths.as_path("gs://bucket/a/b")
    assert paths.mirror(tmp_path, "data", remote) == tmp_path / "data" / "gs" / "bucket" / "a" / "b"
