"""The lab: pages about the sandbox's provider, each with live calls that its log shows. On a port of its own.

:mod:`.lab` puts the pages together, :mod:`.live` makes the calls. It sees the provider from within, calls it over real
HTTP, and gets the two ends of a handoff through the port in :mod:`.ends`. It never notes a Cookie header: a browser
sends those of every other port of this machine along.
"""
