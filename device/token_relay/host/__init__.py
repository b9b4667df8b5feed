"""What a Linux device gives: clocks, HTTP, systemd, logs, paths, configuration, the home, the board's name.

I/O. The adapters behind the agents' ports. It knows no protocol step.
"""
