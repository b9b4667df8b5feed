"""Histories: a plan made from a seed, somebody who performs it, and what is reported of many runs."""
