"""Slurm without a Slurm: the script, what may be asked, and what is made of what its commands answer."""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
from support.commands import clp
from support.jobs import plan_of, train_options
from support.made_runs import PLAN
from support.pages_run import check, open_page, text_of

from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.slurm import control
from clp_core.jobs.slurm.control import REGISTRY, SlurmWord, parse_queue
from clp_core.jobs.slurm.launcher import SCRIPT_FILE, TICKET_FILE
from clp_core.jobs.supervisor import SAVED as STOPPED_SAVED
from clp_core.training.device_choice import place_of
from clp_core.training.plan import TrainPlan
from clp_core.training.slurm_options import seconds_of
from clp_core.training.slurm_script import checked_script, render
from clp_core.training.submit import resume, script_of, submit_train, train_command, training_argv
from clp_core.workspace import Workspace

CLUSTER = {"launcher": "slurm", "nodes": 2, "gpus_per_node": 0, "processes_per_node": 3, "cpus_per_process": 2}
FAKE = """#!{python} -IS
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
name = pathlib.Path(__file__).name
with open(folder / "calls", "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
told = json.loads((folder / "answers.json").read_text()).get(name, ["", "", 0])
sys.stdout.write(told[0]); sys.stderr.write(told[1])
if told[2]: sys.exit(told[2])
"""

CANCELS = (
    FAKE
    + """
told = json.loads((folder / "answers.json").read_text())
told["scontrol"][0] = told["scontrol"][0].replace("PENDING", "CANCELLED")
(folder / "answers.json").write_text(json.dumps(told))
"""
)


class FakeSlurm:
    """Commands named like Slurm's that say what a test wants, and note what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        self.say()
        for name in ("sbatch", "squeue", "scontrol", "scancel"):
            (folder / name).write_text(FAKE.format(python=sys.executable))
            (folder / name).chmod(0o755)

    def say(self, **answers):
        """Answer so from now on: a command's output, error output and exit code."""
        defaults = {"sbatch": ["77\n", "", 0], "scontrol": ["", "slurm_load_jobs error: Invalid job id specified", 1]}
        (self.folder / "answers.json").write_text(json.dumps(defaults | answers))
        REGISTRY.forget()

    def queue(self, state, reason="None", begins="N/A", folder=""):
        shown = [f"JobId=77 JobState={state} Reason={reason} Restarts=0 WorkDir={folder} StdErr=x", "", 0]
        self.say(squeue=[f"77|{state}|{begins}|{reason}|{folder}\n", "", 0], scontrol=shown)

    def calls(self, name):
        file = self.folder / "calls"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        return [line[1:] for line in lines if line[0] == name]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "fake slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield FakeSlurm(folder)
    REGISTRY.forget()


@pytest.fixture
def options(pair, texts):
    return train_options(pair, texts, **CLUSTER)


@pytest.fixture
def job(slurm, workspace, options):
    return submit_train(workspace, options)


def planned(options):
    return TrainPlan.of_spec(asdict(PLAN) | {"devices": (), "nodes": 2, "processes": 6})


def test_script_asks_for_what_was_asked_and_runs_one_torchrun_a_machine(pair, texts, workspace, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    more = {"time_limit": "1-00:00:00", "partition": "a,b", "account": "lab", "sbatch": ("--mem=64G", " --qos low ")}
    options = train_options(pair, texts, name="It's a run", **CLUSTER | more)
    script = render(options, planned(options), workspace)
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "--job-name=clp-it-s-a-run",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=6",
        "--time=1-00:00:00",
        "--partition=a,b",
        "--account=lab",
        "--signal=B:USR1@300",
        "--requeue",
        "--mem=64G",
        "--qos low",
    ]
    assert "--nproc-per-node=3" in script
    assert "export HF_HUB_OFFLINE=1" in script
    gpus = train_options(pair, texts, launcher="slurm", gpus_per_node=4)
    assert "#SBATCH --gpus-per-node=4" in render(gpus, TrainPlan.of_spec(asdict(PLAN) | {"processes": 4}), workspace)


def test_script_takes_blanks_and_quotes_in_every_path(tmp_path, options, monkeypatch):
    place = tmp_path / 'it\'s "here" $HOME `now`'
    job = place / "jobs" / "a job"
    job.mkdir(parents=True)
    python = place / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$CLP_WORKSPACE" "$OMP_NUM_THREADS" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    script = tmp_path / "script"
    script.write_text(render(options, planned(options), Workspace(place)))
    given = os.environ | {"SLURM_JOB_ID": "20007", "SLURM_NNODES": "2"}
    done = subprocess.run(["bash", str(script), str(job)], env=given, capture_output=True, text=True, check=True)
    workspace, threads, *arguments = done.stdout.splitlines()
    assert (workspace, threads) == (str(place), "2")
    assert arguments[:3] == ["-m", "clp_core.jobs.slurm_supervisor", str(job)]
    assert arguments[3] == "srun"
    assert arguments[-3:] == ["-m", "clp_core.training", str(job)]
    assert str(python) in arguments
    assert any(argument.endswith(":20007") and "rdzv-endpoint" in argument for argument in arguments)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo no\n", "must begin with #!"),
        ("#!/bin/bash\nsrun torchrun\n", "clp_core.jobs.slurm_supervisor"),
        ("#!/bin/bash\n#SBATCH --array=1-3\npython -m clp_core.jobs.slurm_supervisor\n", "--array"),
        ("#!/bin/bash\nexport HF_TOKEN=hf_" + "a" * 30 + "\nclp_core.jobs.slurm_supervisor", "access token"),
        ("#!/bin/bash\n#" + "x" * 70_000, "64,000"),
    ],
)
def test_edited_script_that_could_not_work_is_refused(text, told):
    with pytest.raises(InputError, match=told):
        checked_script(text)


def test_edited_script_is_used_as_it_is(slurm, workspace, pair, texts, options, tmp_path):
    edited = render(options, planned(options), workspace) + "# edited\n"
    file = tmp_path / "mine.sbatch"
    file.write_text(edited.replace("\n", "\r\n"))
    job = submit_train(workspace, train_options(pair, texts, script=str(file), **CLUSTER))
    assert (job.path / SCRIPT_FILE).read_text() == edited
    assert f"--script {shlex.quote(str(file))}" in job.command
    other = submit_train(workspace, options, edited + "# more\n")
    assert (job.spec["arguments"]["script"], other.spec["arguments"]["script"]) != ("", "")
    assert job.id != other.id
    assert train_command(options, edited).endswith(f"--script {SCRIPT_FILE}")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"launcher": "lsf"}, "--launcher: 'lsf' is unknown"),
        ({"nodes": 2}, "--nodes: only for a cluster"),
        ({"script": "x"}, "--script: only for a cluster"),
        ({"launcher": "slurm", "nodes": 0}, "--nodes: 0 is too small; give 1 or more"),
        ({"launcher": "slurm", "gpus_per_node": -1}, "--gpus-per-node: -1 is too small; give 0 or more"),
        ({"launcher": "slurm", "processes_per_node": 2}, "--processes-per-node: only for CPUs"),
        ({"launcher": "slurm", "device": "cpu"}, "--device: only for this machine"),
        ({"launcher": "slurm", "time_limit": "soon"}, "none of Slurm's forms"),
        ({"launcher": "slurm", "time_limit": "0:00"}, "no time at all"),
        ({"launcher": "slurm", "time_limit": "9"}, "less than twice --signal-before-s"),
        ({"launcher": "slurm", "signal_before_s": 5}, "--signal-before-s: 5 is too small; give 10 or more"),
        ({"launcher": "slurm", "partition": "a b"}, "--partition: 'a b' is not valid; use a name"),
        ({"launcher": "slurm", "account": "$(rm)"}, "--account"),
        ({"launcher": "slurm", "sbatch": ("mem=3",)}, "is not an option of sbatch"),
        ({"launcher": "slurm", "sbatch": ("--mem=3\nrm -r",)}, "is not an option of sbatch"),
        ({"launcher": "slurm", "sbatch": ("--output=x",)}, "--output is not possible"),
        ({"launcher": "slurm", "sbatch": ("--array 1-3",)}, "--array is not possible"),
    ],
)
def test_what_no_cluster_could_do_is_refused_by_name(pair, texts, settings, told):
    with pytest.raises(InputError, match=told.replace("(", r"\(").replace("$", r"\$")):
        train_options(pair, texts, **settings)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("12:00:00", 43_200),
        ("2-0", 172_800),
        ("2-01:30", 178_200),
        ("1-00:00:01", 86_401),
        ("UNLIMITED", None),
        ("", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(limit, seconds):
    assert seconds_of(limit) == seconds


def test_plan_for_a_cluster_does_not_look_at_this_machine(pair, texts, options, monkeypatch):
    from clp_core.training import device_choice

    def never(*args):
        raise AssertionError("this machine was asked")

    monkeypatch.setattr(device_choice, "find_device", never)
    monkeypatch.setattr("clp_core.training.plan.psutil.virtual_memory", never)
    chosen = plan_of(options, pair[0])
    assert (chosen.nodes, chosen.processes, chosen.devices, chosen.device) == (2, 6, (), "cpu")
    assert chosen.step_blocks % 6 == 0
    assert not chosen.bf16
    gpus = plan_of(train_options(pair, texts, launcher="slurm", nodes=3, gpus_per_node=4), pair[0])
    assert (gpus.nodes, gpus.processes, gpus.device, gpus.bf16) == (3, 12, "cuda", True)
    assert place_of(options).name == "2 machines with 3 processes each, through Slurm"
    small = train_options(pair, texts, launcher="slurm", memory_gb=1e-6)
    with pytest.raises(InputError, match="1 machine with 1 GPU"):
        plan_of(small, pair[0])


def test_run_without_slurm_is_refused_in_one_line(workspace, options, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no sbatch"):
        submit_train(workspace, options)
    assert not list(workspace.jobs.glob("*"))
    assert script_of(workspace, options, planned(options))[1].startswith("#!")  # it can still be looked at


def test_script_and_directory_are_handed_over(slurm, job):
    (call,) = slurm.calls("sbatch")
    assert call[-2:] == [str(job.path / SCRIPT_FILE), str(job.path)]
    assert f"--output={job.path / 'output.log'}" in call
    assert "--open-mode=append" in call
    assert json.loads((job.path / TICKET_FILE).read_text()) == {"job_id": "77", "cluster": ""}
    assert job.spec["launcher"] == "slurm"
    assert job.summary()["slurm_job"] == "77"


def test_slurms_number_is_told_on_the_command_line_and_the_page(slurm, job, server_that_has_run_app_once):
    slurm.queue("PENDING", "Priority")
    assert "77" in clp("jobs", "show", job.id).stdout
    assert json.loads(clp("jobs", "show", job.id, "--json").stdout)["slurm_job"] == "77"
    app = check(open_page("runs", run=job.id))
    assert "Slurm job 77" in [caption.value for caption in app.caption]
    assert "Leave the queue" in [button.label for button in app.button]


def test_run_that_slurm_never_got_is_lost_after_a_while(slurm, job, monkeypatch):
    (job.path / TICKET_FILE).unlink()
    assert stands(job) == ("queued", ReasonCode.SLURM_SUBMITTING)
    monkeypatch.setattr("clp_core.jobs.slurm.launcher.SUBMIT_GRACE_S", -1.0)
    assert stands(job) == ("lost", ReasonCode.SLURM_NOT_SUBMITTED)


def test_log_file_with_a_percent_sign_is_not_filled_in(slurm, tmp_path):
    control.submit(tmp_path / "s", tmp_path / "100%j")
    assert f"--output={tmp_path}/100%%j/output.log" in slurm.calls("sbatch")[0]


def test_allocation_around_the_app_is_not_handed_on(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURM_CONF", "SBATCH_ACCOUNT", "CLP_JOB_DIR"):
        monkeypatch.setenv(name, "x")
    given = control.environment()
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= set(given)
    assert not {"SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "CLP_JOB_DIR"} & set(given)


@pytest.mark.parametrize(
    ("state", "reason", "begins", "code", "told"),
    [
        ("PENDING", "Resources", "N/A", "slurm-waits", "(Resources)"),
        ("PENDING", "Priority", "2026-01-01T10:00:00", "slurm-waits", "(Priority), to begin about 2026-"),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", "N/A", "slurm-waits", "(ReqNodeNotAvail"),
        ("PENDING", "QOSMaxJobsPerUserLimit", "N/A", "slurm-waits", "(QOSMaxJobsPerUserLimit)"),
        ("PENDING", "None", "N/A", "slurm-waits", "Slurm: waits"),
        ("REQUEUED", "None", "N/A", "slurm-waits", "Slurm: waits"),
        ("RUNNING", "None", "2026-01-01T10:00:00", "slurm-starts", "Slurm: starts it"),
    ],
)
def test_waiting_run_is_queued_with_slurms_reason(slurm, job, state, reason, begins, code, told):
    slurm.queue(state, reason, begins)
    status = job.status()
    assert (status.state, status.reason_code) == ("queued", code)
    assert told in status.reason
    assert "None" not in status.reason


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "CANCELLED"])
def test_run_without_a_last_word_is_lost_with_slurms(slurm, job, state):
    running_on(job, "elsewhere")
    slurm.say(squeue=["", "", 0], scontrol=[f"JobId=77 JobState={state} Reason=None Restarts=0 ExitCode=0:9", "", 0])
    status = job.status()
    assert (status.state, status.reason_code) == ("lost", ReasonCode.SLURM_GONE)
    assert f"({state}); nothing was saved" in status.reason
    slurm.say()  # Slurm forgets it within minutes; what it said is kept
    assert job.status() == status
    assert json.loads((job.path / "status.json").read_text())["state"] == "running"


def stands(job):
    """Return a job's state and the code of its reason."""
    status = job.status()
    return status.state, status.reason_code


def running_on(job, host):
    job.write_status("running")
    write_json(job.path / "process.json", {"pid": 4711, "host": host, "boot_id": "b", "create_time": 1.0})


def test_run_that_slurm_has_forgotten_is_lost_once_it_is_silent(slurm, job):
    running_on(job, "elsewhere")
    slurm.say(squeue=["77|PENDING|N/A|None|/jobs/of-another-cluster\n", "", 0])
    assert stands(job) == ("running", ReasonCode.ON_OTHER_HOST)
    assert job.status().reason == "on elsewhere"
    write_json(job.path / "heartbeat.json", {"time": time.time() - 1000, "expect_next_s": 10})
    assert stands(job) == ("lost", ReasonCode.SLURM_GONE)
    assert "nothing was saved" in job.status().reason
    slurm.queue("RUNNING", folder=str(job.path))  # another machine asked another Slurm: nothing has stuck
    assert job.status().state == "running"


def test_job_of_another_cluster_with_the_same_number_is_not_cancelled(slurm, job):
    slurm.queue("RUNNING", folder="/jobs/not-ours")
    job.ask_stop(kill=True)
    assert slurm.calls("scancel") == []


def test_run_on_another_machine_is_as_its_files_say_while_slurm_runs_it(slurm, job):
    running_on(job, "n17")
    slurm.queue("RUNNING")
    assert stands(job) == ("running", ReasonCode.ON_OTHER_HOST)
    assert job.status().reason == "on n17"
    job.ask_stop()
    assert stands(job) == ("stopping", ReasonCode.STOP_REQUESTED)
    write_json(job.path / "heartbeat.json", {"time": time.time() - 1000, "expect_next_s": 10})
    assert job.status().reason_code == ReasonCode.NO_SIGN
    assert "1000 s" in job.status().reason
    job.write_status("finished")
    assert job.status().state == "finished"


def test_silent_slurm_changes_no_state_and_is_not_asked_again_at_once(slurm, job):
    running_on(job, "n17")
    down = ["", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1]
    slurm.say(squeue=down)
    for _ in range(5):
        assert stands(job) == ("running", ReasonCode.SLURM_NO_ANSWER)
    assert len(slurm.calls("squeue")) == 1


def test_slurm_that_hangs_is_given_up(slurm, job, monkeypatch):
    monkeypatch.setattr(control, "ASK_TIMEOUT_S", 0.5)
    (slurm.folder / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(control.NoAnswerError, match="squeue gave no answer"):
        control.call(["squeue"], 0.5)


def test_many_runs_are_asked_for_in_one_call(slurm, workspace, pair, texts):
    jobs = []
    for i in range(4):
        slurm.say(sbatch=[f"{i + 1}\n", "", 0])
        jobs.append(submit_train(workspace, train_options(pair, texts, seed=i, **CLUSTER)))
    slurm.say(squeue=["".join(f"{i + 1}|PENDING|N/A|Priority|\n" for i in range(4)), "", 0])
    before = len(slurm.calls("squeue"))
    assert {job.status().state for job in jobs for _ in range(3)} == {"queued"}
    assert len(slurm.calls("squeue")) - before == 1


def test_waiting_run_is_cancelled_and_has_stopped(slurm, job):
    slurm.queue("PENDING", folder=str(job.path))
    (slurm.folder / "scancel").write_text(CANCELS.format(python=sys.executable))
    job.ask_stop()
    assert slurm.calls("scancel") == [["--state=PENDING", "77"]]
    assert stands(job) == ("stopped", ReasonCode.STOPPED_BEFORE_START)


def test_run_that_began_meanwhile_is_left_to_its_supervisor(slurm, job):
    slurm.queue("RUNNING")
    job.ask_stop()
    assert job.status().state == "queued"
    assert job.stop_asked


def test_stop_while_slurm_is_silent_is_kept(slurm, job):
    slurm.say(scontrol=["", "scontrol: error: Unable to contact slurm controller (connect failure)", 1])
    job.ask_stop()
    assert job.stop_asked
    slurm.queue("CANCELLED")
    assert stands(job) == ("stopped", ReasonCode.STOPPED_BEFORE_START)


def test_ending_at_once_also_cancels_in_slurm(slurm, job):
    running_on(job, "hung")
    slurm.queue("RUNNING")
    job.ask_stop(kill=True)
    assert slurm.calls("scancel") == [["77"]]
    slurm.queue("CANCELLED")
    assert stands(job) == ("stopped", ReasonCode.STOPPED_UNSAVED)
    assert "nothing was saved" in job.status().reason


def test_refused_script_leaves_no_job_and_a_resumed_run_its_reason(slurm, workspace, options, pair, texts):
    refusal = ["", "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: No\n", 1]
    slurm.say(sbatch=refusal)
    with pytest.raises(InputError, match="Batch job submission failed: No"):
        submit_train(workspace, options)
    assert JobStore(workspace.jobs).jobs() == []
    slurm.say()
    job = submit_train(workspace, options)
    job.write_status("stopped", STOPPED_SAVED)
    slurm.say(sbatch=refusal)
    with pytest.raises(InputError, match="Batch job submission failed: No"):
        resume(workspace, job)
    assert stands(job) == ("failed", ReasonCode.SLURM_REFUSED)
    assert job.status().attempt == 2
    assert "Batch job submission failed: No" in job.status().reason


def supervise(job, code, **given):
    """Run a supervisor as the script does; return its exit code."""
    environment = os.environ | {"SLURM_JOB_ID": "77"} | given
    command = [sys.executable, "-m", "clp_core.jobs.slurm_supervisor", str(job.path), sys.executable, "-c", code]
    return subprocess.run(command, env=environment, timeout=60, check=False).returncode


DONE = """
import json, os, pathlib
(pathlib.Path(os.environ["CLP_JOB_DIR"]) / "result.json").write_text(json.dumps({"outcome": "finished", "step": 60}))
"""
SAVED = """
import json, os, pathlib, signal, time
job = pathlib.Path(os.environ["CLP_JOB_DIR"])
os.kill(os.getppid(), signal.SIGUSR1)
while not any((job / "control" / name).exists() for name in ("stop", "requeue")): time.sleep(0.05)
{more}
(job / "result.json").write_text(json.dumps({{"outcome": "stopped", "step": 40}}))
"""


@pytest.mark.process
def test_signal_before_the_limit_saves_and_gives_the_job_back_to_the_queue(slurm, job):
    slurm.say(scontrol=["", "", 0])
    assert supervise(job, SAVED.format(more="")) == 0
    assert slurm.calls("scontrol") == [["requeue", "77"]]
    slurm.queue("PENDING", "BeginTime")
    status = job.status()
    assert (status.state, status.attempt, status.reason_code) == ("queued", 1, ReasonCode.SLURM_WAITS)
    assert job.written_status().reason_code == ReasonCode.SLURM_REQUEUED
    assert "saved at step 40" in status.reason
    assert "(BeginTime)" in status.reason
    slurm.say()
    assert supervise(job, DONE, SLURM_RESTART_COUNT="1") == 0
    assert (job.status().state, job.status().attempt) == ("finished", 2)


@pytest.mark.process
def test_stop_of_a_user_wins_over_going_on_later(slurm, job):
    slurm.queue("RUNNING")
    assert supervise(job, SAVED.format(more="(job / 'control' / 'stop').touch()")) == 0
    assert ["requeue", "77"] not in slurm.calls("scontrol")
    assert stands(job) == ("stopped", ReasonCode.STOPPED_SAVED)


@pytest.mark.process
def test_slurm_that_takes_no_job_back_leaves_a_stopped_run(slurm, job):
    slurm.say(scontrol=["", "Requested operation is presently disabled for job 77", 1])
    supervise(job, SAVED.format(more=""))
    assert stands(job) == ("stopped", ReasonCode.SLURM_NOT_REQUEUED)
    assert "saved at step 40" in job.status().reason
    assert "(Requested operation is presently disabled for job 77)" in job.status().reason


@pytest.mark.process
def test_script_that_slurm_starts_again_goes_on_unless_the_run_is_over_or_stopped(slurm, job):
    running_on(job, "died")
    slurm.queue("PENDING", "BeginTime")
    assert stands(job) == ("queued", ReasonCode.SLURM_WAITS)
    assert "begins again" in job.status().reason
    supervise(job, DONE, SLURM_RESTART_COUNT="1")
    assert (job.status().state, job.status().attempt) == ("finished", 2)
    supervise(job, "raise SystemExit('it ran')", SLURM_RESTART_COUNT="2")
    assert (job.status().state, job.status().attempt) == ("finished", 2)
    job.write_status("running")
    job.ask_stop()
    supervise(job, "raise SystemExit('it ran')", SLURM_RESTART_COUNT="3")
    assert stands(job) == ("stopped", ReasonCode.STOPPED_BEFORE_START)
    assert "nothing was saved" in job.status().reason


ENDED = "import os, signal, sys; print({line!r}, flush=True); os.kill(os.getppid(), signal.SIGTERM); sys.exit(143)"
STEP = "slurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2026-01-01T00:00:00{due} ***"


@pytest.mark.process
@pytest.mark.parametrize(
    ("due", "restarts", "state", "code", "told"),
    [
        ("", 0, "stopped", "slurm-cancelled", "nothing was saved"),
        (" DUE TO TIME LIMIT", 0, "failed", "slurm-time-limit", "nothing was saved"),
        (" DUE TO PREEMPTION", 0, "stopped", "slurm-cancelled", "due to preemption; nothing was saved"),
        (" DUE TO JOB REQUEUE", 1, "queued", "slurm-preempted", "(job requeue); it begins again"),
    ],
)
def test_run_that_slurm_ends_says_why(slurm, job, due, restarts, state, code, told):
    slurm.say(scontrol=[f"JobId=77 JobState=COMPLETING Reason=None Dependency= Restarts={restarts} X=1", "", 0])
    supervise(job, ENDED.format(line=STEP.format(due=due)))
    status = job.written_status()
    assert (status.state, status.reason_code) == (state, code)
    assert told in status.reason
    assert not job.stop_asked  # nobody has asked: it may go on


@pytest.mark.process
def test_processes_that_are_gone_without_a_result_have_not_finished(slurm, job):
    slurm.say(scontrol=["JobId=77 JobState=COMPLETING Restarts=1", "", 0])
    late = "import os, subprocess; subprocess.Popen(['sh', '-c', f'sleep 1; kill -TERM {os.getppid()}'])"
    supervise(job, late)  # a machine fails: srun ends with 0, then Slurm ends the job
    assert job.written_status().reason_code == ReasonCode.SLURM_PREEMPTED
    assert job.written_status().state == "queued"
    slurm.say(scontrol=["JobId=77 JobState=RUNNING Restarts=0", "", 0])
    supervise(job, "pass")
    assert stands(job) == ("failed", ReasonCode.NO_RESULT)


@pytest.mark.process
def test_failed_training_tells_its_own_reason(slurm, job):
    supervise(job, "raise SystemExit('clp: the disk is made of cheese')")
    assert stands(job) == ("failed", ReasonCode.ERROR)
    assert job.status().reason == "the disk is made of cheese"


def test_one_process_starts_on_its_own_and_several_with_torchrun():
    alone, two = (training_argv(TrainPlan.of_spec(asdict(PLAN) | {"processes": n})) for n in (1, 2))
    assert alone == ["-m", "clp_core.training", "{job}"]
    assert two[:2] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=2" in two
    assert two[-3:] == alone


def test_other_number_of_processes_than_planned_keeps_the_step_or_is_refused():
    from clp_core.training.main import blocks_at_once

    chosen = TrainPlan.of_spec(asdict(PLAN) | {"step_blocks": 24, "micro_blocks": 4, "processes": 6})
    assert [blocks_at_once(chosen, processes) for processes in (1, 3, 6, 12, 24)] == [4, 4, 4, 2, 1]
    with pytest.raises(InputError, match=r"6 processes.* 4\b"):
        blocks_at_once(chosen, 4)  # six blocks each, four at once


def test_lines_of_squeue_are_read_whatever_stands_in_them():
    lines = ["1|PENDING|N/A|a, b|/with a|bar/job", "rubbish", "2_[1-3]|PENDING|N/A|x|/", "", "4|RUNNING"]
    found = parse_queue("\n".join([*lines, "3|RUNNING|2026-01-01T00:00:00|None|/j\n"]))
    assert found == {
        "1": SlurmWord("PENDING", "a, b", folder="job"),
        "3": SlurmWord("RUNNING", "None", "2026-01-01T00:00:00", folder="j"),
    }


def test_command_line_shows_the_script_and_starts_nothing(pair, texts, workspace):
    arguments = ("train", "--model", pair[0], "--text", texts[0], "--eval-text", texts[1], "--show-script")
    done = clp(*arguments, "--launcher", "slurm", "--gpus-per-node", 2, "--sbatch=--mem=1G", "--sbatch", "--qos=low")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#!/bin/bash\n")
    assert {"#SBATCH --gpus-per-node=2", "#SBATCH --mem=1G", "#SBATCH --qos=low"} <= set(done.stdout.splitlines())
    assert not list(workspace.jobs.glob("*"))
    assert "--launcher slurm" in clp(*arguments).stderr


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_train_page_offers_slurm_only_where_it_is(target, slurm, monkeypatch):
    assert "Where" in [radio.label for radio in check(open_page("train")).radio]
    monkeypatch.setattr(control.shutil, "which", lambda name: None)
    assert "Where" not in [radio.label for radio in check(open_page("train")).radio]


@pytest.mark.process
@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_train_page_hands_an_edited_script_to_slurm(target, space, slurm):
    app = check(open_page("train"))
    by_label(app.radio, "Where").set_value("slurm").run()
    by_label(check(app).number_input, "Machines").set_value(3).run()
    by_label(app.text_input, "Partition").set_value("gpu").run()
    shown = next(code.value for code in check(app).code if code.value.startswith("#!"))
    assert {"#SBATCH --nodes=3", "#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1"} <= set(shown.splitlines())
    assert "3 machines with 1 GPU each, through Slurm" in text_of(app)
    by_label(app.toggle, "Edit the script").set_value(True).run()
    by_label(check(app).text_area, "Script").set_value(shown + "# mine\n").run()
    command = next(code.value for code in check(app).code if code.value.startswith("clp train"))
    assert command.endswith("--launcher slurm --nodes 3 --partition gpu --script slurm.sbatch")
    slurm.queue("PENDING", "Priority")
    by_label(app.button, "Hand to Slurm").click().run()
    check(app)
    (job,) = JobStore(space.jobs).jobs()
    assert (job.path / SCRIPT_FILE).read_text() == shown + "# mine\n"
    assert any("queued" in message.value for message in app.success)
    cloned = check(open_page("train", clone=job.id))
    assert by_label(cloned.text_area, "Script").value == shown + "# mine\n"
    assert by_label(cloned.number_input, "Machines").value == 3


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_train_page_shows_a_script_that_is_refused_as_a_message(target, slurm):
    app = check(open_page("train"))
    by_label(app.radio, "Where").set_value("slurm").run()
    by_label(check(app).text_input, "Time limit").set_value("soon").run()
    assert any("Slurm's forms" in message.value.replace("\\", "") for message in check(app).error)


def by_label(elements, label):
    return next(element for element in elements if element.label == label)
