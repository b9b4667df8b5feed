"""Histories: a plan made from a seed, the performer that runs it, and the report of many runs."""
