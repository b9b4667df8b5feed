"""The control interface under ``/sandbox/``: requests as values in, answers as values out.

Pure: the server transports them; broker and links are reached through protocols.
"""
