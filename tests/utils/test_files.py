"""File systems without locks, where everything works after one warning that names the folder, and atomic writes."""

import errno
import fcntl
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.paths import PROJECT
from src.config.schema import SearchSettings
from src.results.manifest import read_manifest, write_manifest
from src.utils import lifeline
from src.utils.files import FolderInUseError, changing, is_locked, locked, write_whole

NONE = [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP]
SAYS = "this file system does not support locks, so never start a run while it is already running"


@pytest.fixture
def refuse(monkeypatch):
    """Make every attempt to lock fail with the given error."""

    def arrange(number):
        def fail(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", fail)
        monkeypatch.setattr(fcntl, "lockf", fail)

    return arrange


@pytest.mark.parametrize("number", NONE, ids=errno.errorcode.get)
def test_without_locks_one_warning_names_the_folder(number, refuse, tmp_path, caplog):
    refuse(number)
    for _ in range(2):
        with locked(tmp_path), changing(tmp_path / "file"):
            assert not is_locked(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: {SAYS}"]


def test_another_error_of_a_lock_is_not_hidden(refuse, tmp_path):
    refuse(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), locked(tmp_path):
        pass


def test_an_error_under_a_lock_that_is_not_there_is_told_as_it_is(refuse, tmp_path):
    refuse(errno.ENOLCK)
    with pytest.raises(KeyError) as raised, locked(tmp_path):
        raise KeyError("mine")
    assert raised.value.__context__ is None


def test_where_there_are_locks_the_second_is_turned_away(tmp_path):
    with locked(tmp_path), pytest.raises(FolderInUseError, match=str(os.getpid())), locked(tmp_path):
        pass


def test_the_manifest_and_the_lifeline_go_on_without_locks(refuse, tmp_path):
    refuse(errno.ENOLCK)
    write_manifest(tmp_path, SearchSettings(grid=[], repeated=[], columns=[], two_stage=False), {"run": {"seed": 0}})
    assert read_manifest(tmp_path).runs == {"run": {"seed": 0}}
    lifeline.hold(tmp_path)
    assert lifeline.VARIABLE not in os.environ
    assert not lifeline.in_worker()


def test_a_run_and_a_sweep_finish_without_locks(refuse, train, tiny, caplog):
    refuse(errno.ENOLCK)
    with caplog.at_level(logging.WARNING):
        assert train(*tiny).status == 0
        assert train("-m", *tiny, "name=sweep", "seed=0,1").status == 0
    results = [*Path("outputs").glob("*/*/result.json")]
    assert [json.loads(path.read_text())["status"] for path in results] == ["finished"] * 3


def test_the_journal_of_a_search_goes_on_without_locks(refuse, tmp_path):
    optuna = pytest.importorskip("optuna")
    from src.sweeping.trial import storage_of

    refuse(errno.ENOLCK)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage_of(tmp_path), study_name="one")
    study.tell(study.ask(), 1.0)
    assert optuna.load_study(study_name="one", storage=storage_of(tmp_path)).best_value == 1.0


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    program = "import os, signal; os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    program += "; from pathlib import Path; from src.utils.files import write_whole; write_whole(Path('file'), b'half')"
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment).returncode == -9
    (killed,) = tmp_path.glob(".*.tmp")
    parent = killed.name.replace(killed.suffixes[-2], f".{os.getppid()}")
    kept = {parent, f".file.elsewhere{killed.suffixes[-2]}.tmp", "file.tmp"}
    own = killed.name.replace(killed.suffixes[-2], f".{os.getpid()}")  # left by an earlier process with the same id
    for name in (*kept, own):
        (tmp_path / name).touch()
    write_manifest(tmp_path, SearchSettings(grid=[], repeated=[], columns=[], two_stage=False), {})
    assert {path.name for path in tmp_path.glob("*.tmp")} == kept


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_so_is_the_name(tmp_path, monkeypatch):
    done, replace = [], os.replace

    def synchronize(descriptor):
        status = os.fstat(descriptor)
        done.append("the folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")

    monkeypatch.setattr(os, "fsync", synchronize)
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    write_whole(tmp_path / "file", b"content")
    assert done == ["7 bytes", "renamed", "the folder"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "nowhere" / "file", b"content")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")


def test_an_error_of_a_file_system_that_cannot_be_written_names_the_file(tmp_path, monkeypatch):
    def refused(*arguments, **settings):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "temporary")

    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_whole(tmp_path / "file", b"content")
    assert caught.value.filename == str(tmp_path / "file")


def test_a_name_that_no_folder_can_have_is_not_locked(tmp_path):
    assert not is_locked(tmp_path / ("x" * 300))
