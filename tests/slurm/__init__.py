"""`cluster/slurm` on a Slurm of three nodes that begins and ends with the command `python -m tests.slurm`."""
