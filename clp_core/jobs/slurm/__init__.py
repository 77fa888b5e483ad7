"""Jobs that Slurm starts: its commands, their launcher, their supervisor, and the word it has of a job."""
