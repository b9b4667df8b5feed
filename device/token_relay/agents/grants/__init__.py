"""What becomes of a stored grant: its lifecycle, its schedule, and the keeper that refreshes it.

Both agents keep grants: the phone keeps its own, the companion those it was given. Ports only; decisions are pure.
"""
