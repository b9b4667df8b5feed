"""The subcommands of ``token-relay``: tables of options, and the handlers that they name.

The tables (:mod:`.phone`, :mod:`.companion`, :mod:`.certs`, :mod:`.sandbox_options`) import only the standard library;
each handler lives in a module that is imported when its command was really given.
"""
