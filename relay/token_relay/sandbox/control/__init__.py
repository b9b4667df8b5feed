"""The control interface under ``/sandbox/``: requests as values in, answers as values out.

Pure: the server carries them, and broker and links are reached through the protocols that stand here.
"""
