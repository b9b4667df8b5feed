"""The subcommands of ``token-relay``: tables of options, and the handlers that they name.

The tables (:mod:`.phone`, :mod:`.companion`, :mod:`.certs`, :mod:`.sandbox_options`) import only the standard library;
each handler is in a module that is imported only for its own command.
"""
