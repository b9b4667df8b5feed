"""Measures what an identity provider does with refresh tokens: :mod:`.experiments` decides, :mod:`.driver` does it."""
