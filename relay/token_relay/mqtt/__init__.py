"""One lasting connection to the broker. The only importer of aiomqtt and paho.

I/O. It moves bytes by topic and acknowledges a message when its handler has returned; it does not know what the bytes
mean, or to whom.
"""
