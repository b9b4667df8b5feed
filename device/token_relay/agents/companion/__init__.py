"""The companion's agent: pairing, taking grants, keeping their leases, giving them up when told to.

Ports only. It never imports the phone's agent: the two know each other only by messages.
"""
