"""How a page is read: what is a step, what is typed, what is to be seen, and what such a reading refuses."""

from __future__ import annotations

import re

import pytest

from tests.pages.numbered_steps import Deed, pattern_of, steps_of

PAGE = """\
# A page

1. On the **companion**, which is **new**: begin.

   ```sh
   token-relay companion pair
   ```

   ```
   RTR1:…
   …
   ```

2. On the **phone**: two commands, the second \
is refused.

   ```sh
   token-relay a \\
       --b
   token-relay c
   ```

   ```
   no:  … [y/N] y
   ```

   It ends with exit
   code 4 here.

   ```sh
   token-relay d
   ```

3. At the **companion** it ends, with nothing typed:

   ```
   paired
   ```

A paragraph after the steps, with exit code 5.

1. Another list begins anew.
"""


def test_steps_have_a_place_commands_lines_to_be_seen_and_exit_codes() -> None:
    pair, two, ends, other = steps_of(PAGE)
    assert [step.number for step in (pair, two, ends, other)] == [1, 2, 3, 1]
    assert (pair.place, two.place, ends.place, other.place) == ("companion", "phone", "companion", "")
    assert pair.deeds == (Deed("token-relay companion pair", ("RTR1:…",), goes_on=True),)
    asked = Deed("token-relay c", ("no:  … [y/N] y",), exit_code=4)
    assert two.deeds == (Deed("token-relay a --b"), asked, Deed("token-relay d"))
    assert ends.deeds == (Deed("", ("paired",)),)
    assert other.deeds == ()


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("1. On the moon:\n\n   ```sh\n   true\n   ```\n", "step 1 says no place"),
        ("1. One.\n\n3. Three.\n", "step 3 comes after step 1"),
        ("2. Two.\n", "step 2 comes after step 0"),
    ],
)
def test_a_page_that_cannot_be_followed_is_refused(page: str, why: str) -> None:
    with pytest.raises(LookupError, match=why):
        steps_of(page)


@pytest.mark.parametrize(
    ("line", "said", "is_seen"),
    [
        ("connected  yes", "  connected      yes", True),
        ("connected yes", "is connected yes", False),
        ("… connected yes", "is connected yes", True),
        ("erased … pairings", "erased 1 grants and 2 pairings", True),
        ("erased … pairings", "erased 1 grants\nand 2 pairings", False),
        ("a.b", "axb", False),
    ],
)
def test_a_line_is_seen_as_a_person_sees_it(line: str, said: str, is_seen: bool) -> None:
    assert bool(re.search(pattern_of(line), said)) is is_seen
