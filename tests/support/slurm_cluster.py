"""A real Slurm for the tests that need one: two slurmd, one slurmctld and a munged, on this host, in a folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from clp_core.jobs.slurm import control
from clp_core.jobs.slurm.control import REGISTRY
from support.jobs import wait_for

BINARIES = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
NODES = ("n1", "n2")
CONF = """
ClusterName=clptest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
KillWait=10
MessageTimeout=20
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def path_of(binary):
    return shutil.which(binary, path=SEARCHED)


missing = [binary for binary in BINARIES if path_of(binary) is None]


def free_ports(n):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Cluster:
    """The daemons, each a child of this process, so that none is left behind."""

    def __init__(self, root):
        self.root = root
        self.daemons = {}
        controller, first, second = free_ports(3)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (root / name).mkdir()
        text = CONF.format(
            host=socket.gethostname(), user=user, root=root, controller=controller, first=first, second=second
        )
        (root / "slurm.conf").write_text(text)
        self.environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}

    def start(self, name, *command):
        with open(self.root / f"{name}.log", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [path_of(command[0]), *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_controller(self):
        self.start("slurmctld", "slurmctld", "-D")
        wait_for(lambda: self.ask("scontrol", "ping").stdout.count("is UP"), 30)

    def start_all(self):
        key, munge = self.root / "munge.key", str(self.root / "munge")
        subprocess.run([path_of("mungekey"), "--create", f"--keyfile={key}"], check=True)
        paths = {"socket": f"{munge}.socket", "key-file": key, "pid-file": f"{munge}.pid", "seed-file": f"{munge}.seed"}
        self.start("munged", "munged", "--foreground", "--force", *[f"--{name}={path}" for name, path in paths.items()])
        wait_for(lambda: Path(f"{munge}.socket").exists(), 30)
        self.start_controller()
        for node in NODES:
            self.start(node, "slurmd", "-D", "-N", node)
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%D %t").stdout.split() == ["2", "idle"], 60)

    def ask(self, *command):
        return subprocess.run(list(command), env=self.environment, capture_output=True, text=True, timeout=60)

    def stop(self, name):
        process = self.daemons.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def impatient(self):
        """Have commands of Slurm give up on a controller that is down in seconds; they try for all of the time-out."""
        file = self.root / "impatient.conf"
        text = (self.root / "slurm.conf").read_text()
        file.write_text(text.replace("MessageTimeout=20", "MessageTimeout=3"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(file))
            yield

    def is_idle(self):
        return not self.ask("squeue", "-h").stdout and self.ask("sinfo", "-h", "-o", "%t").stdout.split() == ["idle"]

    def clear(self):
        """Cancel all jobs, and wait until the machines are free."""
        self.ask("scancel", "--me")
        wait_for(self.is_idle, 60)

    def stop_all(self):
        with contextlib.suppress(Exception):
            self.clear()
        for name in reversed(list(self.daemons)):
            self.stop(name)

    def logs(self):
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(self.root.glob("*.log")))


@pytest.fixture(scope="module")
def running_cluster():
    """Daemons in a folder of their own: munged refuses one that others may write, and sockets have short paths."""
    assert not missing, f"a real Slurm is required here, but there is no {', '.join(missing)}"
    root = Path(tempfile.mkdtemp(prefix="clp-slurm-"))
    root.chmod(0o755)
    cluster = Cluster(root)
    try:
        cluster.start_all()
        yield cluster
    except AssertionError as error:
        raise AssertionError(f"{error}\n{cluster.logs()}") from error
    finally:
        cluster.stop_all()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def cluster(running_cluster, monkeypatch):
    """The cluster without any job, as this process and its children find it."""
    monkeypatch.setenv("SLURM_CONF", running_cluster.environment["SLURM_CONF"])
    monkeypatch.setattr(control, "KEPT_S", 0.5)  # an answer of Slurm is news for 5 s, which tests would wait
    REGISTRY.forget()
    yield running_cluster
    running_cluster.clear()
    REGISTRY.forget()
