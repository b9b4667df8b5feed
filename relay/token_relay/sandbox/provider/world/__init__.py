"""What the sandbox is told beforehand: users, clients, policy, faults, and what each profile does.

Pure. A world is read once and checked; what happens later is in ``memory/``.
"""
