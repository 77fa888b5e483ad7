"""Jobs forked from one process that has the libraries loaded, in place of interpreters that load them each time.

A process that imports torch, transformers and the Trainer spends seconds on it, and the tests start hundreds. So each
worker of the tests starts one template process, which imports everything and then forks a supervisor whenever a job
starts (``clp_core.jobs.spawning``); the supervisor forks its job's process in turn. What runs is the same code in
processes of its own, with the same parents, sessions, signals and files. Their command lines are those of the template,
so tests that look at command lines, or that are about processes, take the fixture ``real_processes``.

Environment variables that libraries read while they are imported must be those of the template, else an interpreter is
started after all.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path
from typing import NoReturn

from clp_core.jobs.allocator import ALLOCATOR
from clp_core.jobs.process_identity import die_with_parent
from clp_core.jobs.spawning import ENVIRONMENT, Spawner

SOCKET = "CLP_TEST_TEMPLATE"
"""Names the socket of the template."""
FIRST = "CLP_TEST_FIRST"
"""Names a module that a forked process imports before it is what was asked for, as ``sitecustomize`` would be."""
LOG = "template.log"
READ_AT_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_", "TORCH", "OMP_", "MKL_", "CUDA_", "PYTHON", "OPENBLAS", "LD_")
NOT_COMPARED = ("PYTHONUNBUFFERED", "PYTHONPATH", "TORCHINDUCTOR_CACHE_DIR")  # torch sets the last one itself
LOADED = (
    *("numpy", "pandas", "pyarrow.parquet", "scipy.linalg", "scipy.sparse", "faiss", "psutil", "filelock", "typer"),
    *("torch", "torch.distributed.fsdp", "transformers", "datasets", "accelerate", "tokenizers", "safetensors.torch"),
    *("rich.console", "rich.progress", "rich.table", "transformers.trainer_pt_utils"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2"),
    *(
        "clp_core.cli.app",
        "clp_core.training.main",
        "clp_core.transfer.pipeline",
        "clp_core.transfer.method_comparison",
        "clp_core.geometry.embedding_cache",
    ),
    *(
        "clp_core.jobs.supervisor",
        "clp_core.playground.server",
        "clp_core.helper.pretraining",
        "clp_core.geometry.layout",
    ),
    *(
        "clp_core.helper.tokenizer_training",
        "clp_core.geometry.neighbor_graph",
        "clp_core.publishing.export",
        "clp_core.evaluation.downstream",
    ),
    *("clp_core.evaluation.bits_per_byte", "clp_core.experiments.runner", "clp_core.transfer.explanation"),
    *(f"clp_core.initializers.{name}" for name in ("clp", "linear", "mean", "omp", "random", "topk", "two_view")),
    *("sklearn.decomposition", "torch.profiler", "pydantic", "typer._adapters", "rich._emoji_codes"),
)


def settings(environment):
    """Return what libraries read of an environment while they are imported."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_IMPORT) and name not in NOT_COMPARED
    }


class PreloadedSpawner(Spawner):
    """Forks supervisors from the template, and a job's process from its supervisor."""

    def detached(self, argv, log, environment):
        order = {"argv": list(argv), "log": str(log), "cwd": os.getcwd(), "environment": dict(environment)}
        with socket.socket(socket.AF_UNIX) as client:
            if not connected(client):
                return super().detached(argv, log, environment)
            client.sendall(json.dumps(order).encode() + b"\n")
            answer = json.loads(client.makefile().readline())
        return answer["pid"] or super().detached(argv, log, environment)

    def child(self, argv, log, environment):
        is_python = argv[0] == sys.executable and argv[1] == "-m"
        if not is_template_child() or not is_python or settings(environment) != settings(os.environ):
            return super().child(argv, log, environment)
        if argv[2] == "torch.distributed.run":
            return ForkedRanks(argv[1:], log, environment)
        return ForkedChild(argv[1:], log, environment)


def connected(client):
    """Connect to the template, which may still load; say whether it is there: it ends with the tests."""
    path = Path(os.environ[SOCKET])
    while path.parent.is_dir():
        try:
            client.connect(str(path))
        except OSError:
            log = path.with_name(LOG)
            if log.is_file() and (told := log.read_text()):
                raise RuntimeError(f"the template of the tests does not serve: {told}") from None
            time.sleep(0.05)
        else:
            return True
    return False


def spawner():
    return PreloadedSpawner()


class ForkedChild:
    """A forked process as a supervisor sees one."""

    def __init__(self, argv, log, environment):
        self.returncode = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            die_with_parent(parent)
            self.run(argv, log, environment)

    def run(self, argv, log, environment) -> NoReturn:
        """Be the process that was asked for."""
        become(argv, log, os.getcwd(), environment)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


class ForkedRanks(ForkedChild):
    """A process that forks those that train together, as torchrun starts them on one machine."""

    def run(self, argv, log, environment) -> NoReturn:
        (count,) = [word.partition("=")[2] for word in argv if word.startswith("--nproc-per-node=")]
        module = argv[argv.index("-m", 1) :]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        ranks = [
            ForkedChild(module, log, {**environment, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(int(count))
        ]
        codes = [None]
        while None in codes and not any(codes):  # where one fails, the others would wait; they die with this process
            time.sleep(0.02)
            codes = [rank.poll() for rank in ranks]
        os._exit(1 if any(codes) else 0)


def become(argv, log, cwd, environment) -> NoReturn:
    """Be, in this forked process, the interpreter that was asked for: run ``-m MODULE ARGUMENTS``, and end."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 4096)
        os.chdir(cwd)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = argv[1:]
        warnings.filterwarnings("ignore", ".* found in sys.modules", RuntimeWarning)  # that is the point
        if first := os.environ.get(FIRST):
            importlib.import_module(first)
        code = exit_code_of(argv[1])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def exit_code_of(module) -> int:
    """Run a module as the interpreter would, and return the exit code of the process."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


_in_template = False


def is_template_child() -> bool:
    """Say whether this process was forked from the template."""
    return _in_template


def serve(path) -> NoReturn:
    """Be the template: load everything, then fork a process for every order that comes."""
    for name in LOADED:
        importlib.import_module(name)
    for kept in list(weakref.finalize._registry):  # what libraries unload at the end: a fork just ends
        kept.atexit = False
    supervisor = sys.modules["clp_core.jobs.supervisor"]
    supervisor.POLL_S, supervisor.QUEUE_POLL_S = 0.05, 0.2
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        sys.exit(f"the template has {threads} threads; what they hold would be lost in a fork")
    global _in_template
    _in_template = True
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        while True:
            connection, _ = server.accept()
            with connection:
                order = json.loads(connection.makefile().readline())
                if settings(order["environment"]) != settings(os.environ):
                    answer = 0
                else:
                    answer = os.fork()
                    if answer == 0:
                        os.setsid()
                        become(order["argv"], order["log"], order["cwd"], order["environment"])
                connection.sendall(json.dumps({"pid": answer}).encode() + b"\n")


def keep_freed_memory() -> None:
    """Have this process keep the memory it frees, as jobs do by ``ALLOCATOR``: asking anew takes long."""
    with contextlib.suppress(OSError, AttributeError):  # the names and numbers are glibc's
        libc = ctypes.CDLL(None)
        for trim_or_mmap_threshold, value in ((-1, 2**31 - 1), (-3, 2**30)):
            libc.mallopt(trim_or_mmap_threshold, value)


def start_template(folder: Path) -> subprocess.Popen:
    """Start a template, which serves as soon as it has loaded everything, and name it in this process's environment."""
    path = folder / "template.sock"
    here = str(Path(__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ[SOCKET] = str(path)
    os.environ[ENVIRONMENT] = "support.preloaded"
    code = f"from support.preloaded import serve; serve({str(path)!r})"
    # Arrow's allocator would start a thread, which a fork would lose.
    environment = os.environ | {"JE_ARROW_MALLOC_CONF": "background_thread:false"} | ALLOCATOR
    command = [sys.executable, "-W", "ignore", "-c", code]
    with open(folder / LOG, "wb") as log:
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
