"""The phone's agent: signing in, pairing, giving grants away and taking them back.

Ports only. It never imports the companion's agent: the two know each other only by messages.
"""
