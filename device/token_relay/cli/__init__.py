"""What a person types: parser, prompts, output, exit codes, the demo.

I/O. It talks to a running agent over sockets and keeps nothing. Modules are imported when their command was given, for
``companion token`` starts often and on slow hardware.
"""
