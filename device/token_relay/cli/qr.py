"""Draws a QR code in a terminal, two rows of modules in one line of text. Pure.

A reader wants dark modules on a light ground, with a light margin of four modules (ISO/IEC 18004). With colours that is
what is drawn, whatever the terminal's theme: black and white are named by their place in the cube of 256 colours, which
themes leave alone, after the plain ones for a terminal that knows no cube. Without colours nobody here knows whether
the text is light or dark: the blocks are then the light modules, which is right for light text on a dark ground.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MARGIN = 4
DARK_ON_LIGHT = "\x1b[30;47;38;5;16;48;5;231m"
LIGHT_ON_DARK = "\x1b[37;40;38;5;231;48;5;16m"
RESET = "\x1b[0m"
GLYPHS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


def lines(rows: Sequence[Sequence[bool]], *, has_colours: bool, is_inverted: bool) -> Iterator[str]:
    """Yield the lines of text; ``is_inverted`` draws light on dark, without colours for dark text on a light ground."""
    ink = has_colours or is_inverted  # which modules the blocks are
    below = [*rows[1::2], [False] * len(rows[0])] if len(rows) % 2 else rows[1::2]
    for upper, lower in zip(rows[::2], below, strict=True):
        drawn = "".join(GLYPHS[one == ink, other == ink] for one, other in zip(upper, lower, strict=True))
        if has_colours:
            drawn = (LIGHT_ON_DARK if is_inverted else DARK_ON_LIGHT) + drawn + RESET
        yield drawn
