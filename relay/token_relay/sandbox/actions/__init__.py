"""Post-login Actions that somebody wrote, run in processes of their own with a time limit.

I/O. What an Action is shown and what becomes of its answer is decided in ``provider/tokens/actions``.
"""
