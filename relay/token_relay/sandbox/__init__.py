"""A test world: an identity provider, a broker and a network that misbehave on command, on real sockets.

``provider/`` is a pure core; server, broker, links and Actions around it are I/O. Production code never imports it:
only the demo, the simulation, the ``sandbox`` command and the examples do.
"""
