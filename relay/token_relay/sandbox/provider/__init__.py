"""The identity provider's core: ``(request, now) -> answer and events``.

Pure: no socket, clock, file or ``async``; randomness comes from a seeded source, so same seed and clock give the same
tokens. The HTTP server and the simulation drive the same core.
"""
