"""``python person.py URL``: a person with a browser. Fills in the forms that come, and prints the last page as text.

The server may still be starting. What the browser trusts, ``SSL_CERT_FILE`` says.
"""

from __future__ import annotations

import html
import re
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from http.cookiejar import CookieJar
from urllib.parse import urlencode, urljoin

FORMS_MAX = 5
WAIT_S, TRIES_MAX = 0.1, 600
PERSON = {"username": "password@contoso.example", "password": "correct-horse-7-battery"}


def main(url: str) -> None:
    """Begin at ``url``."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    address, text = url, ""
    data: bytes | None = None
    for _ in range(FORMS_MAX):
        with opened(opener, address, data) as answer:
            address, text = answer.url, answer.read().decode()
        form = re.search(r'<form method="post" action="([^"]+)"', text)
        if form is None:
            break
        address = urljoin(address, html.unescape(form[1]))
        inputs = re.findall(r'<input (?:type="\w+" )?name="(\w+)"(?: value="([^"]*)")?', text)
        fields = {name: PERSON.get(name, html.unescape(value)) for name, value in inputs}
        data = urlencode(fields).encode()
    print(re.sub(r"<[^>]+>", " ", text).strip())


def opened(opener: urllib.request.OpenerDirector, url: str, data: bytes | None) -> HTTPResponse:
    """Return the answer, once there is somebody who answers."""
    for left in reversed(range(TRIES_MAX)):
        try:
            found = opener.open(url, data)
        except urllib.error.URLError as exc:
            if not isinstance(exc.reason, ConnectionRefusedError) or left == 0:
                raise
            time.sleep(WAIT_S)
        else:
            assert isinstance(found, HTTPResponse)
            return found
    raise AssertionError("the last try raises")


if __name__ == "__main__":
    main(sys.argv[1])
