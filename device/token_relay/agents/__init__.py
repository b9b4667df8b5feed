"""What an agent decides, and in which transaction.

Ports only: an agent may wait, but it is given channel, vault, HTTP, clock and randomness (:mod:`.ports`), so the same
objects run in production and in the simulation. It knows no socket, file, process or terminal.
"""
