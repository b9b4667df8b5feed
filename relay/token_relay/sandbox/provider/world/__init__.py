"""What the sandbox is told beforehand: users, clients, policy, faults, and what each profile does.

Pure. A world is read and checked once; later events are in ``memory/``.
"""
