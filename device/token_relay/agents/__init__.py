"""What an agent decides, and in which transaction.

Ports only: it may wait, but channel, vault, HTTP, clock and randomness are handed to it (:mod:`.ports`), so the same
objects run in production and in the simulation. It knows no socket, file or process, and not how a person is asked.
"""
