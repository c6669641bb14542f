"""Files that `.dvcignore` names count nowhere, as DVC itself decides."""

import subprocess
import sys
from pathlib import Path

import pytest

from imagecap.checkout import dvc_files, tracked_md5
from imagecap.config import DataSettings
from imagecap.data.dataset import read_captions
from imagecap.data.identity import dvc_md5, folder_digest
from imagecap.data.image_folder import read_image_folder
from imagecap.errors import ImageCapError
from imagecap.surroundings.dvc_ignore import DvcIgnore
from tests.tiny import picture

PATTERNS = "*.tmp\n!keep.tmp\ncache/\n/sets/data/images/private.png\nsets/data/**/raw\nold.dvc\n# a comment\n\\#name\n"
FILES = (
    *("a.png", "b.tmp", "keep.tmp", "cache/c.png", "sub/cache/d.png", "images/private.png", "images/sub/private.png"),
    *("sub/raw", "sub/raw2", "#name", ".git/config", "sub/kept.png", "sub/cut.png", "deep/er/x.log", "deep/y.log"),
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A DVC repository with patterns at its root, and others in a folder below."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / ".dvcignore").write_text(PATTERNS)
    for name in FILES:
        file = tmp_path / "sets" / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "sets" / ".dvcignore").write_text("!raw\ndata/sub/*.png\n!kept.png\n/data/deep/*.log\n")
    return tmp_path


def test_digests_agree_with_dvc(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "add", "sets/data"], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert dvc_md5(repository / "sets" / "data") == tracked_md5(repository / "sets" / "data.dvc")
    data = repository / "sets" / "data"
    found = {file.relative_to(data).as_posix() for file in DvcIgnore(data).files(data)}
    assert {"a.png", "keep.tmp", "sub/raw", "sub/kept.png", "deep/er/x.log"} <= found
    assert not found & {
        "b.tmp",
        "sub/cut.png",
        "cache/c.png",
        "images/private.png",
        "#name",
        ".git/config",
        "deep/y.log",
    }


def test_an_ignored_file_changes_no_digest(repository: Path) -> None:
    before = folder_digest(repository / "sets" / "data")
    (repository / "sets" / "data" / "other.tmp").write_text("new")
    assert folder_digest(repository / "sets" / "data") == before
    (repository / "sets" / "data" / "other.txt").write_text("new")
    assert folder_digest(repository / "sets" / "data") != before


def test_an_ignored_folder_has_a_digest_of_its_own(repository: Path) -> None:
    for name in ("cache", "plain"):
        (repository / name).mkdir(exist_ok=True)
        (repository / name / "file").write_text("same")
    assert folder_digest(repository / "cache") == folder_digest(repository / "plain")
    assert dvc_md5(repository / "cache") == dvc_md5(repository / "plain")


def test_an_ignored_dvc_file_is_none(repository: Path) -> None:
    for name in ("old", "new"):
        (repository / f"{name}.dvc").write_text(f"outs:\n- md5: abc.dir\n  path: {name}\n")
    assert dvc_files(repository) == [repository / "new.dvc"]
    assert tracked_md5(repository / "old.dvc") is None


def test_an_ignored_picture_is_not_read(repository: Path) -> None:
    for seed, name in enumerate(("private.png", "public.png")):
        picture(seed).save(repository / "sets" / "data" / "images" / name)
    assert [sample.image for sample in read_image_folder(repository / "sets" / "data" / "images", DataSettings())] == [
        "public.png"
    ]
    (repository / "sets" / "data" / "captions.json").write_text('[{"image": "private.png", "caption": "A dog."}]')
    with pytest.raises(ImageCapError, match=r"private\.png.* is named in \.dvcignore"):
        read_captions(DataSettings(data_path=str(repository / "sets" / "data")))


def test_outside_a_dvc_repository_nothing_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".dvcignore").write_text("*\n")
    (tmp_path / "file").write_text("x")
    assert set(DvcIgnore(tmp_path).files(tmp_path)) == {tmp_path / ".dvcignore", tmp_path / "file"}
