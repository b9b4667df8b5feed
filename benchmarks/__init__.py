"""Benchmarks: what the relay costs, each figure beside the floor that the same machine set in the same run.

``python -m benchmarks`` prints one table of ratios. Nothing here is asserted by a test, because a figure without the
machine it was measured on means nothing; ``docs/benchmarks.md`` explains how to read the table and shows measured ones.

Rooms: :mod:`.table` (pure) shapes and prints rows; :mod:`.measure` times things and looks at processes; :mod:`.homes`
makes homes of paired agents; each other module measures one subject. :mod:`.worker` and
:mod:`.floors` are programs of their own, run by the others.
"""
