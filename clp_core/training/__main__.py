"""``python -m clp_core.training JOB_DIR``: the process of a run. Jobs and scripts on disk name it so."""

from clp_core.jobs.process_identity import die_with_launcher

die_with_launcher()  # before torch is imported, which takes seconds in which the launcher may die

from clp_core.training.main import main  # noqa: E402

main()
