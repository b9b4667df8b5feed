"""One lasting connection to the broker. The only importer of aiomqtt and paho.

I/O. It moves bytes by topic and acknowledges a message when its handler has returned; what the bytes mean, and to
whom, it does not know.
"""
