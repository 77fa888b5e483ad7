"""A full disk is told in one line, with the cure, wherever the error comes from."""

import errno
import os
import shutil

import pytest

from clp_core import cli
from clp_core.errors import InputError, library_failure, system_failure
from clp_core.folders import check_disk

FULL = "No space left on device"


def test_full_disk_is_told_with_the_file_and_the_cure():
    told = system_failure(OSError(errno.ENOSPC, FULL, "/out/model.safetensors"))
    assert told == f"{FULL}: /out/model.safetensors; make room and run it again"
    assert system_failure(PermissionError(errno.EACCES, "Permission denied", "/out")) == "Permission denied: /out"


def test_full_disk_while_a_folder_is_copied_is_told_by_its_first_file(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text("x")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, FULL, "somewhere")

    with pytest.raises(shutil.Error) as found:
        shutil.copytree(source, tmp_path / "copy", copy_function=full)
    told = system_failure(found.value)
    assert told == f"[Errno {errno.ENOSPC}] {FULL}: 'somewhere'; make room and run it again"


def test_full_disk_that_a_library_in_rust_meets_is_not_taken_for_a_damaged_tokenizer():
    assert library_failure(Exception(f"{FULL} (os error 28)")) == f"{FULL} (os error 28); make room and run it again"


def test_command_on_a_full_disk_ends_with_one_line(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/a")

    monkeypatch.setattr(cli, "app", full)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == f"clp: {FULL}: /out/a; make room and run it again\n"


@pytest.mark.parametrize(("needed", "told"), [(5_500_000, r"needs 5\.5 MB, 1\.0 MB free"), (3e9, r"needs 3\.0 GB")])
def test_room_that_lacks_is_told_in_a_unit_that_shows_it(tmp_path, monkeypatch, needed, told):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(InputError, match=told):
        check_disk(tmp_path / "out", int(needed))
