"""Results of pushes as JSON: what pages read back is what the command wrote, and nothing else."""

import json
from dataclasses import replace

import pytest

from clp_core.publishing.push_result import FileSize, LeftOut, PushResult

DRY = PushResult(
    repo="me/german",
    visibility="private",
    exists=None,
    user="",
    licence=None,
    files=(FileSize("config.json", 10),),
    bytes=10,
    left_out=(LeftOut("optimizer.pt", "optimiser or run state"),),
    removed=(),
    problems=("nobody is logged in",),
    notes=(),
    card="# german",
    dry_run=True,
)
PUSHED = replace(DRY, exists=True, dry_run=False, url="https://hub/me/german", commit="abc")


@pytest.mark.parametrize("result", [DRY, PUSHED])
def test_result_comes_back_from_json(result):
    assert PushResult.of_json(json.loads(json.dumps(result.to_json()))) == result


def test_json_has_the_keys_of_the_command():
    assert list(DRY.to_json()) == [
        *("repo", "visibility", "exists", "user", "licence", "files", "bytes", "left_out", "removed", "problems"),
        *("notes", "card", "dry_run", "url", "commit"),
    ]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"url": None}, "url"),
        ({"exists": "yes"}, "exists"),
        ({"bytes": True}, "bytes"),
        ({"files": [{"name": "config.json"}]}, "files.0.bytes"),
        ({"left_out": ["optimizer.pt"]}, "left_out.0"),
        ({"card": 3}, "card"),
    ],
)
def test_damaged_entry_is_named(damage, named):
    with pytest.raises(ValueError, match=f"^{named}$"):
        PushResult.of_json(PUSHED.to_json() | damage)
