"""What a person types: parser, prompts, output, exit codes, the demo.

I/O. It talks to a running agent over sockets and stores nothing. A module is imported only for its own command, since
``companion token`` starts often and on slow hardware.
"""
