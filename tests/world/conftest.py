"""Tests against programs that others wrote: in ``make test-world``, whose environment has them, and nowhere else."""
