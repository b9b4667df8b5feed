"""The life of tokens at the provider: issuing, rotation, reuse, revocation, and what they say about themselves.

Pure. It asks nobody who signed in: that has been decided before it is called.
"""
