"""What a person looks at: ``phone console`` and ``companion console``. I/O. No agent imports it.

:mod:`.run` serves, :mod:`.phone` and :mod:`.companion` have the pages, :mod:`.both` those that both have. A live page's
stream is its path with ``/stream``, the first page's is ``stream``.
"""
