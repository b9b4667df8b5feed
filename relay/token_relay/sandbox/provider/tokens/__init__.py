"""The life of tokens at the provider: issuing, rotation, reuse, revocation, and what they say about themselves.

Pure. It does not check who signed in: its callers have done so.
"""
