"""Both ends in virtual time: the agents' real code with simulated ports, the promises, the test kit.

A test world, imported by nothing that runs in production. Same seed, same history.
"""
