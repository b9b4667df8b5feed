"""What two paired devices say to each other: secrets, identities, envelope, messages, pairing, numbers, handoff.

Pure: bytes, values and ``now`` come in, values go out. It knows no socket, file, clock or randomness, and not which of
the two ends calls it; formats are those of ``docs/spec/``.
"""
