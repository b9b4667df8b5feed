"""What a person looks at: ``phone console`` and ``companion console``. No agent imports anything from here.

Both have ``tokens``, ``trouble`` (also ``?trace=ID``) and ``talks/ID``. A phone's others: the empty path (devices; also
``?only=needs-me`` and ``?after=PLACE``), ``devices/ID``, ``devices/ID/handoff`` (its newest handoff in four columns),
``handoffs/ID``, ``pair`` and ``account``. A companion's: the empty path (grants and phones), ``handoffs/ID`` and
``pair`` (with ``pair/qr.svg``). A live page's stream is its path with ``/stream``, the first page's is ``stream``.
"""
