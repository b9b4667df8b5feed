"""What a person looks at: what the console of an agent and the sandbox's lab share. I/O.

:mod:`.walls` says who may look, :mod:`.server` serves, :mod:`.visit` is one request as a page sees it, and
:mod:`.conversation` turns the questions of a running command into forms. No agent imports anything from here.
"""
