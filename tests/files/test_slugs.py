"""Names of files and folders, made of names that users give in any script."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clp_core.files.slug import ascii_slug, is_slug, slug_of
from clp_core.jobs import Job, JobStore
from clp_core.jobs.store import is_job_id
from clp_core.transfer.overrides import OverrideList

NAMES = [
    ("German, 300 steps", "german-300-steps", "german-300-steps"),
    ("Русский запуск", "русский-запуск", "job"),
    ("Größe über alles", "grösse-über-alles", "grosse-uber-alles"),
    ("日本語モデル 2", "日本語モデル-2", "2"),
    ("हिन्दी", "हिन्दी", "job"),
    ("تجربة الأولى", "تجربة-الأولى", "job"),
    ("می\u200cشود", "میشود", "job"),
    ("ภาษาไทย", "ภาษาไทย", "job"),
    ("Ａ／Ｂ", "ａ-ｂ", "a-b"),
    ("../../etc/passwd", "etc-passwd", "etc-passwd"),
    (".hidden", "hidden", "hidden"),
    ("-rf *", "rf", "rf"),
    ("a\u202eb\u2066c", "abc", "a-b-c"),
    ("a\x00b\nc", "a-b-c", "a-b-c"),
    ("e\u0301te\u0301", "été", "ete"),
    ("\u0301x", "x", "x"),
    ("\u3164 \u115f", "job", "job"),
    ("🙂", "job", "job"),
    ("", "job", "job"),
]


@pytest.mark.parametrize(("text", "expected", "in_ascii"), NAMES)
def test_slugs_keep_letters_of_all_scripts_and_those_for_slurm_ascii_alone(text, expected, in_ascii):
    assert slug_of(text) == unicodedata.normalize("NFC", expected)
    assert ascii_slug(text) == in_ascii


def is_safe(slug):
    return (
        0 < len(slug.encode()) <= 160
        and slug == unicodedata.normalize("NFC", slug)
        and not slug.startswith((".", "-"))
        and not slug.endswith("-")
        and "--" not in slug
        and all(c == "-" or unicodedata.category(c)[0] in "LMN" for c in slug)
        and not unicodedata.category(slug[0]).startswith("M")
    )


@settings(max_examples=300)
@given(st.text(max_size=80))
def test_every_slug_is_a_safe_part_of_a_path(text):
    assert is_safe(slug_of(text))
    assert is_slug(slug_of(text))
    assert is_slug(unicodedata.normalize("NFD", slug_of(text)))
    assert ascii_slug(text).isascii()


def test_no_control_direction_blank_or_mark_makes_an_unsafe_slug():
    categories = ("Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Me")
    special = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in categories]
    assert len(special) > 2000
    for character in special:
        assert is_safe(slug_of(f"a{character}b")), hex(ord(character))


def test_long_names_are_cut_before_a_letter_with_its_marks():
    assert slug_of("ж" * 300) == "ж" * 40
    assert slug_of("a" * 39 + "b\u0316\u0324") == "a" * 39
    assert slug_of("𠀀" * 300).encode() == ("𠀀" * 40).encode()


def test_names_that_the_file_system_cannot_write_become_ascii(monkeypatch):
    monkeypatch.setattr("os.fsencode", lambda text: text.encode("latin-1"))
    assert slug_of("größer") == "grösser"
    assert slug_of("Größer жук") == "grosser"


@pytest.mark.parametrize("name", ["Русский запуск", "हिन्दी", "größer", "x" * 80, "مرحبا"])
def test_jobs_are_found_again_by_their_directory_whatever_the_script(workspace, name):
    store = JobStore(workspace.jobs)
    job, _ = store.create("project", {"name": name}, ["-c", "pass"], "clp project", name=name)
    assert [result.id for result in store.jobs()] == [job.id]
    assert store.get(job.id).name == store.find(job.id).name == name
    assert (workspace.jobs / job.id).is_dir()
    moved = workspace.jobs / unicodedata.normalize("NFD", job.id)  # as some file systems give names back
    job.path.rename(moved)
    assert [result.path for result in store.jobs()] == [moved]


def test_jobs_of_earlier_versions_are_still_found(workspace):
    store = JobStore(workspace.jobs)
    job, _ = store.create("project", {}, ["-c", "pass"], "clp project", name="gr e")
    old = workspace.jobs / "20250101-120000-gr-e-ab12"
    job.path.rename(old)
    assert isinstance(store.get(old.name), Job)


@pytest.mark.parametrize(
    "name",
    ["20250101-120000--ab12", "20250101-120000-a/b-ab12", "20250101-120000-..-ab12", "20250101-120000-a\u202eb-ab12",
     "20250101-120000-a b-ab12", "٢٠٢٥٠١٠١-120000-a-ab12", "20250101-120000-" + "a" * 41 + "-ab12", ".removed-x",
     "20250101-120000-a-ab12\n", "20250101-120000-a\0-ab12", "20250101-120000--a-ab12"],
)  # fmt: skip
def test_other_names_are_not_those_of_jobs(name):
    assert not is_job_id(name)


def test_the_overrides_of_models_with_long_names_fit_into_a_file_name(tmp_path):
    noted = OverrideList.of(tmp_path, tmp_path / ("ж" * 100), tmp_path / ("b" * 200))
    noted.note("token", "text")
    assert noted.pairs() == [("token", "text")]
    assert OverrideList.of(tmp_path, tmp_path / "a", tmp_path / "b").file.name.startswith("a-b-")
