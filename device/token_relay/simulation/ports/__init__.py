"""The agents' ports in virtual time: channel, disk, HTTP, clocks, randomness. The real tier has real SQLite files."""
