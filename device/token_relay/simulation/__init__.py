"""Both ends in virtual time: the agents' real code with simulated ports."""
