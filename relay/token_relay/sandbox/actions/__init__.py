"""Post-login Actions that somebody wrote, run in processes of their own with a time limit.

I/O. ``provider/tokens/actions`` decides what an Action sees and what its answer does.
"""
