"""The ways between ends, broker and provider: small TCP proxies that can be cut, slowed and healed.

I/O, except for ``orders``, which says what may be asked of a link. It passes bytes on and never reads them.
"""
