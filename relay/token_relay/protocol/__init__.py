"""What passes between phone and companion: envelope, protocol, channel, and the provider as its client sees it.

Nothing in here knows of :mod:`device`; the import direction is held by ``tests/core/test_structure.py``.
"""
