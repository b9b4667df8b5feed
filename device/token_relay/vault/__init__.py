"""The sealed durable store, and where its key comes from.

I/O. It stores frozen dataclasses, a step in one transaction, and seals each secret in them; it does not know what a
handoff is and decides nothing.
"""
