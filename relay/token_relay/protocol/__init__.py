"""What two paired devices say to each other: secrets, identities, envelope, messages, pairing, numbers, handoff.

Pure: bytes, values and ``now`` come in, values go out. It knows no socket, file, clock or randomness, nor which of the
two ends calls it. The formats are those of ``docs/spec/``.
"""
