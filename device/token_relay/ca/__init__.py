"""The broker's certificate authority on disk, which ``token-relay certs`` uses.

I/O. :mod:`token_relay.pki` makes the certificates; this package has files, locks and the clock. No agent imports it.
"""
