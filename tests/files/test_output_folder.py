"""An output folder takes its name in two renames; what other processes do in between."""

import os
import shutil
import threading
import time

import pytest
from filelock import FileLock

from clp_core import demo
from clp_core.errors import InputError
from clp_core.files.output_folder import LOCK_FILE, partial_folder, restore_replaced, take_name
from clp_core.run_comparison import curve
from clp_core.run_comparison.curve import import_curve
from clp_core.transfer.overrides import OverrideList


def make_old(tmp_path):
    output = tmp_path / "target"
    output.mkdir()
    (output / "which").write_text("old")
    return output


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "workspace")


def overwrite(output, which="new"):
    with partial_folder(output) as part:
        (part / "which").write_text(which)
        take_name(part, output, overwrite=True)


def test_old_folder_is_not_put_back_between_the_renames_of_a_living_writer(tmp_path, monkeypatch):
    output, between, go_on = make_old(tmp_path), threading.Event(), threading.Event()
    rename = os.rename

    def slow(old, new):
        if os.fspath(new) == str(output) and threading.current_thread() is writer:
            between.set()
            assert go_on.wait(10)
        rename(old, new)

    monkeypatch.setattr(os, "rename", slow)
    writer = threading.Thread(target=overwrite, args=(output,))
    writer.start()
    assert between.wait(10)
    assert not output.exists()
    restore_replaced(output)  # what the next command does first
    assert not output.exists()
    go_on.set()
    writer.join()
    assert (output / "which").read_text() == "new"
    assert names(tmp_path) == ["target"]


def test_second_overwriter_between_the_renames_of_the_first_loses_no_model(tmp_path, monkeypatch):
    output = make_old(tmp_path)
    rename, did = os.rename, []

    def interleaved(old, new):
        if not did and "partial" in os.fspath(old):
            did.append(True)
            restore_replaced(output)
            overwrite(output, "second")
        rename(old, new)

    monkeypatch.setattr(os, "rename", interleaved)
    with pytest.raises(Exception, match="could not take its name"):
        overwrite(output, "first")
    assert (output / "which").read_text() == "second"
    assert names(tmp_path) == ["target"]


def test_old_folder_of_a_dead_writer_is_put_back(tmp_path):
    output = make_old(tmp_path)
    part, aside = tmp_path / ".target.partial-abc", tmp_path / ".target.replaced-abc"
    part.mkdir()
    (part / LOCK_FILE).touch()
    aside.mkdir()
    output.rename(aside / "old")
    with FileLock(part / LOCK_FILE):
        restore_replaced(output)
        assert not output.exists()
    restore_replaced(output)
    assert (output / "which").read_text() == "old"
    assert not aside.exists()


def test_rest_of_a_replaced_folder_is_removed_by_the_next_command(tmp_path):
    output = make_old(tmp_path)
    shutil.copytree(output, tmp_path / ".target.removed-abc" / "old")
    restore_replaced(output)
    assert names(tmp_path) == ["target"]


def test_name_taken_in_the_meantime_is_kept(tmp_path):
    with partial_folder(tmp_path / "target") as part:
        output = make_old(tmp_path)
        with pytest.raises(InputError, match="came to be in the meantime"):
            take_name(part, output, overwrite=False)
        shutil.rmtree(part)
    assert (output / "which").read_text() == "old"
    assert names(tmp_path) == ["target"]


def at_once(works):
    barrier = threading.Barrier(len(works))
    results = []

    def run(work):
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_overrides_noted_at_once_are_all_kept(tmp_path, monkeypatch):
    pairs = OverrideList.pairs
    monkeypatch.setattr(OverrideList, "pairs", lambda self: (pairs(self), time.sleep(0.02))[0])
    noted = OverrideList(tmp_path / "overrides" / "list.tsv")
    at_once([lambda i=i: noted.note(f"token{i}", "text") for i in range(4)])
    assert sorted(noted.pairs()) == [(f"token{i}", "text") for i in range(4)]


def test_curves_imported_at_once_get_names_of_their_own(workspace, monkeypatch):
    write = curve.write_json
    monkeypatch.setattr(curve, "write_json", lambda *args, **kwargs: (time.sleep(0.02), write(*args, **kwargs))[1])
    made = at_once([lambda: import_curve(workspace, b"tokens,eval_loss\n1,2\n2,1\n", "x.csv", "mine")] * 3)
    assert sorted(curve.key for curve in made) == ["import:mine", "import:mine-2", "import:mine-3"]
    assert len(curve.imported_curves(workspace)) == 3


def test_demo_unpacked_twice_at_once_is_whole(workspace, monkeypatch):
    copytree = shutil.copytree
    monkeypatch.setattr(demo.shutil, "copytree", lambda *args, **kwargs: (time.sleep(0.02), copytree(*args, **kwargs)))
    monkeypatch.setattr(demo, "prepare", lambda folder, cache: None)
    found = at_once([lambda: demo.unpack(workspace)] * 2)
    assert len(found) == 2
    assert names(workspace.texts) == ["demo-NOTICE", demo.TRAIN_TEXT, demo.EVAL_TEXT]
    assert names(workspace.models) == [demo.HELPER, demo.SOURCE]
