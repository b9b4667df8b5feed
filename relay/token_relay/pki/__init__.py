"""The broker's private certificate authority as values: keys, names and moments in, certificates out.

Pure: files, the clock and locks are those of :mod:`token_relay.ca`, which calls it.
"""
