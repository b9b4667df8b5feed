"""The sandbox: an identity provider, a broker and a network that misbehave on command, over real sockets.

Production code never imports from here; only the demo, the simulation and the ``sandbox`` command do.
"""
