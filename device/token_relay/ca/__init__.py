"""The broker's certificate authority on disk: what stands behind ``token-relay certs``.

I/O. Certificates are made by :mod:`token_relay.pki`; here are files, locks and the clock. No agent imports it.
"""
