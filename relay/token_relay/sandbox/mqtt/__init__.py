"""A small MQTT broker for MQTT 5 and 3.1.1, which misbehaves on command.

Packets, filters and sessions are pure, ``broker`` has the sockets. It keeps everything in memory.
"""
