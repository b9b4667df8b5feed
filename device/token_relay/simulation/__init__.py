"""Both ends in virtual time: the agents' real code with simulated ports, the promises, the test kit.

No production code imports it. The same seed gives the same history.
"""
