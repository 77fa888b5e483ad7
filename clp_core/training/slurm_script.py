"""The script that is handed to Slurm: rendered from a run's options, shown, and as good after a user has edited it.

It holds nothing of one job: sbatch gives it the job's directory as its first argument, so that a script which was
edited once serves again.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from clp_core.errors import InputError
from clp_core.files.slug import ascii_slug
from clp_core.hub.access_tokens import refuse_access_tokens
from clp_core.jobs.allocator import ALLOCATOR
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan
from clp_core.workspace import ENVIRONMENT, Workspace

SUPERVISOR = "clp_core.jobs.slurm_supervisor"
HANDED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "CLP_ROOTS")
MAX_SCRIPT = 64_000
REFUSED = re.compile(r"^\s*#SBATCH\s+(--array\b|-a\b|--no-requeue\b|--wrap\b)", re.MULTILINE)

SCRIPT = """\
#!/bin/bash
# Trains a model through Slurm. sbatch gives this script the run's directory as its first argument.
{directives}

# Slurm sends this signal before the time limit; the supervisor listens to it: save, stop, go back to the queue.
trap '' USR1

{exports}
python={python}
port=$((20000 + SLURM_JOB_ID % 20000))

# The supervisor, on the first machine, says how the run stands and obeys stop requests. What follows the directory is
# what it runs: one torchrun on every machine.
exec "$python" -m {supervisor} "$1" \\
  srun --kill-on-bad-exit=1 --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task={cpus} \\
  "$python" -m torch.distributed.run --nnodes="$SLURM_NNODES" --nproc-per-node={processes} \\
  --rdzv-backend=c10d --rdzv-endpoint="$(hostname):$port" --rdzv-id="$SLURM_JOB_ID" \\
  -m clp_core.training "$1"
"""


def render(options: TrainOptions, chosen: TrainPlan, workspace: Workspace) -> str:
    """Return the script for a run.

    Args:
        options: what was asked for.
        chosen: what was planned.
        workspace: whose jobs and cache the run uses; all machines must see it under this path.

    Raises:
        InputError: it would hold an access token.
    """
    processes = chosen.processes // chosen.nodes
    cpus = processes * options.cpus_per_process
    directives = {
        "--job-name": f"clp-{ascii_slug(options.name or Path(options.model).name)}",
        "--nodes": str(chosen.nodes),
        "--ntasks-per-node": "1",
        "--gpus-per-node": str(options.gpus_per_node or ""),
        "--cpus-per-task": str(cpus),
        "--time": options.time_limit,
        "--partition": options.partition,
        "--account": options.account,
        "--signal": f"B:USR1@{options.signal_before_s}",
    }
    lines = [f"#SBATCH {flag}={value}" for flag, value in directives.items() if value]
    lines += ["#SBATCH --requeue", *[f"#SBATCH {line.strip()}" for line in options.sbatch]]
    exported = {ENVIRONMENT: str(workspace.root), "OMP_NUM_THREADS": str(options.cpus_per_process)} | ALLOCATOR
    exported |= {"PYTHONUNBUFFERED": "1"} | {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}
    script = SCRIPT.format(
        directives="\n".join(lines),
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in exported.items()),
        python=shlex.quote(sys.executable),
        supervisor=SUPERVISOR,
        cpus=cpus,
        processes=processes,
    )
    refuse_access_tokens([script])
    return script


def checked_script(text: str) -> str:
    """Return an edited script as Slurm takes it.

    Raises:
        InputError: it is no script, holds an access token, or could not be supervised.
    """
    script = text.replace("\r\n", "\n").rstrip() + "\n"
    if not script.startswith("#!"):
        raise InputError("the script must begin with #!, such as #!/bin/bash; --show-script prints one that works")
    if len(script) > MAX_SCRIPT:
        raise InputError(f"the script has more than {MAX_SCRIPT:,} characters; is it the right file?")
    if "\0" in script:
        raise InputError("the script holds a NUL byte; is it the right file?")
    refuse_access_tokens([script])
    if SUPERVISOR not in script:
        raise InputError(
            f"the script does not start {SUPERVISOR}, so nobody would say how the run stands; --show-script prints "
            "one that does"
        )
    if refused := REFUSED.search(script):
        raise InputError(f"the script asks for {refused[1]}, with which a run cannot be stopped and go on; remove it")
    return script


def read_script(path: str) -> str:
    """Return the edited script in a file.

    Raises:
        InputError: there is no such file, or it cannot be used.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--script: there is no file {path}; --show-script prints one to begin with")
    try:
        return checked_script(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"--script: {path} is no text ({error})") from error
