"""Names of other libraries that begin with an underscore: few, listed here, and still where the project expects them.

Their makers may move them in any release. A new one is added below only where nothing public does the same.
"""

import ast
import inspect
from pathlib import Path

import pytest
from transformers import Trainer

ROOT = Path(__file__).resolve().parents[2]
OVERRIDDEN = {
    "_save_checkpoint": (["self", "model", "trial"], "checkpoints are sealed once they are whole"),
    "_save": (["self", "output_dir", "state_dict"], "a tied matrix of a sharded model is written once"),
    "_save_optimizer_and_scheduler": (["self", "output_dir"], "each process writes its part of a sharded model"),
    "_load_optimizer_and_scheduler": (["self", "checkpoint"], "each process reads its part of a sharded model"),
    "_load_from_checkpoint": (
        ["self", "resume_from_checkpoint", "model"],
        "the model was opened from the checkpoint already",
    ),
}
"""Methods of transformers' Trainer that ``RunTrainer`` overrides: their parameters, and what would be lost."""


def own_trees():
    files = [ROOT / "app.py", *(path for name in OWN for path in (ROOT / name).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in files}


OWN = ("clp_core", "components", "pages", "benchmarks")
STANDARD = {"os._exit"}
"""Names of Python itself, which are documented."""


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names(trees):
    """Every function, method and attribute that the project defines itself."""
    names = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return names


def foreign_names(trees):
    """Yield where a private name of another library is imported, used, or called as that of a base class."""
    own = own_names(trees)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(OWN):
                parts = [*node.module.split("."), *(alias.name for alias in node.names)]
                if any(map(is_private, parts)):
                    yield where, f"{node.module} {[alias.name for alias in node.names]}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if any(map(is_private, alias.name.split("."))):
                        yield where, alias.name
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                name = f"{ast.unparse(node.value)}.{node.attr}"
                if node.attr not in own and name not in STANDARD:
                    yield where, name


def overridden(trees):
    """Yield the private methods of the Trainer that a class of the project overrides."""
    own_classes = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            foreign = isinstance(node, ast.ClassDef) and [
                base for base in map(ast.unparse, node.bases) if base not in own_classes
            ]
            if foreign:
                methods = [method.name for method in node.body if isinstance(method, ast.FunctionDef)]
                for method in filter(is_private, methods):
                    if hasattr(Trainer, method):
                        yield f"{path}:{node.name}", method


def test_no_other_private_name_is_imported_or_used():
    trees = own_trees()
    assert len(trees) > 150
    assert not list(foreign_names(trees)), "use something public, or say above why there is nothing"
    assert sorted(name for _, name in overridden(trees)) == sorted(OVERRIDDEN)
    assert {where for where, _ in overridden(trees)} == {"clp_core/training/trainer.py:RunTrainer"}


def test_walk_sees_private_names_of_other_libraries():
    source = """
from torch._utils import classproperty
from accelerate.state import _thing
import torch._dynamo
AcceleratorState._shared_state["a"] = 1
os._exit(1)
class Own(Trainer):
    def _save(self): self._mine()
    def _mine(self): ...
"""
    trees = {Path("x.py"): ast.parse(source)}
    assert [name for _, name in foreign_names(trees)] == [
        "torch._utils ['classproperty']",
        "accelerate.state ['_thing']",
        "torch._dynamo",
        "AcceleratorState._shared_state",
    ]
    assert list(overridden(trees)) == [("x.py:Own", "_save")]


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_method_of_the_trainer_is_still_there_and_called(name):
    parameters, purpose = OVERRIDDEN[name]
    method = getattr(Trainer, name, None)
    assert method is not None, f"transformers has no Trainer.{name} any more; {purpose}"
    assert list(inspect.signature(method).parameters) == parameters
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(Trainer))))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert name in calls, f"transformers calls Trainer.{name} no more; {purpose}"
