"""The sealed durable store, and where its key comes from.

I/O. It stores any frozen dataclass in one transaction and seals each secret in it; it does not know what a handoff is
and decides nothing.
"""
