"""A full disk is told in one line, with the cure, wherever the error comes from."""

import builtins
import errno
import json
import os
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from filelock import Timeout
from support.made_runs import lines_of, make_run

from clp_core.cli import app as cli
from clp_core.errors import InputError, library_failure, system_failure
from clp_core.files.atomic import check_writable, whole_file, write_whole
from clp_core.files.disk import check_disk
from clp_core.files.output_folder import partial_folder
from clp_core.geometry.embedding_cache import leave_prepared
from clp_core.jobs.metrics import MetricsWriter, read_lines
from clp_core.progress import Heart
from clp_core.training import main as training
from clp_core.training.callback import LogLines

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


class FullAtTimes:
    """A disk that takes a few bytes of each write, and none while it is full."""

    def __init__(self, monkeypatch, most):
        self.most, self.real = most, builtins.open
        monkeypatch.setattr(builtins, "open", self.open)

    def open(self, *args, **kwargs):
        file = self.real(*args, **kwargs)
        return self.Short(file, self) if kwargs.get("buffering") == 0 and "a" in args[1] else file

    class Short:
        def __init__(self, file, disk):
            self.file, self.disk = file, disk

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            if not self.disk.most:
                raise OSError(errno.ENOSPC, FULL)
            taken = self.file.write(data[: self.disk.most])
            self.disk.most = max(0, self.disk.most - taken)
            return taken


def test_metrics_that_a_full_disk_does_not_take_follow_once_there_is_room(tmp_path, monkeypatch):
    disk = FullAtTimes(monkeypatch, 20)
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        writer.write({"step": step, "loss": 1.5, "tokens": 100})
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == []  # torn within the first line
    with pytest.raises(OSError, match=FULL):
        writer.flush()
    disk.most = 10_000
    writer.write({"step": 3, "loss": 1.5, "tokens": 100})
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_heartbeat_that_a_full_disk_does_not_take_ends_no_work(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("CLP_JOB_DIR", str(tmp_path))
    monkeypatch.setattr("clp_core.progress.write_json", fail)
    with nullcontext() if number == errno.ENOSPC else pytest.raises(OSError, match="error"):
        Heart().beat("training", 0.5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path, number):
    file = tmp_path / "figure.html"
    write_whole(file, "old")

    def write_half():
        with whole_file(file) as part:
            part.write_text("ne")
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        write_half()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("figure.html", "old")]
    with whole_file(file) as part:
        assert part.suffix == ".html"
        part.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("figure.html", "new")]


def test_file_in_a_folder_that_is_not_there_is_named_as_the_user_named_it(tmp_path):
    with pytest.raises(FileNotFoundError) as found:
        write_whole(tmp_path / "absent" / "a.csv", "")
    assert system_failure(found.value) == f"No such file or directory: {tmp_path / 'absent' / 'a.csv'}"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), InputError("the cache needs 6.3 MB, 0.0 MB free")])
def test_model_that_is_written_is_no_failure_where_the_cache_has_no_room(workspace, monkeypatch, caplog, error):
    def full(*_):
        raise error

    monkeypatch.setattr("clp_core.geometry.embedding_cache.prepare", full)
    leave_prepared(workspace, str(workspace.models / "target"))
    assert "target is written, but not prepared for the pages" in caplog.text


@pytest.mark.parametrize("write", [check_writable, lambda path: next(partial_folder(path).gen)])
def test_folder_that_may_not_be_written_is_told_by_the_name_of_the_output(tmp_path, monkeypatch, write):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "tmp123"))

    for name in ("mkdtemp", "TemporaryFile"):
        monkeypatch.setattr(f"tempfile.{name}", refuse)
    with pytest.raises(PermissionError) as found:
        write(tmp_path / "output")
    assert system_failure(found.value) == f"Permission denied: {tmp_path / 'output'}"


def test_reports_of_a_run_are_logged_not_printed(capsys, caplog):
    caplog.set_level("INFO")
    state = SimpleNamespace(is_local_process_zero=True, global_step=7)
    LogLines().on_log(None, state, None, {"loss": "6.9"})
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["step 7: {'loss': '6.9'}"]


@pytest.mark.parametrize("is_own", [True, False])
def test_half_a_checkpoint_goes_with_the_run_that_a_full_disk_ends(workspace, monkeypatch, is_own):
    job = make_run(workspace, "a run", lines_of(3))
    half = job.path / "checkpoints" / "checkpoint-20"
    half.mkdir(parents=True)

    def fail(*_):
        raise OSError(errno.ENOSPC, FULL)

    def refuse(*_, **__):
        raise Timeout("writer.lock")

    monkeypatch.setattr("sys.argv", ["training", str(job.path)])
    monkeypatch.setattr(training, "train", fail)
    if not is_own:  # another process still writes it
        monkeypatch.setattr(training.FileLock, "acquire", refuse)
    with pytest.raises(SystemExit):
        training.main()
    assert half.exists() != is_own
    code = json.loads((job.path / "error.json").read_text())["reason_code"]
    assert code == ("disk-full" if is_own else "error")
