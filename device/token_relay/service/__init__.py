"""An agent as a running program: opened and closed in order, the control socket, status, metrics, checks.

I/O. It wires ports to agents and decides nothing about grants; it knows commands, not how a terminal shows them.
"""
