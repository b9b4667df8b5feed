"""The broker's private certificate authority as values: keys, names and moments in, certificates out.

Pure: the caller, :mod:`token_relay.ca`, has the files, the clock and the locks.
"""
