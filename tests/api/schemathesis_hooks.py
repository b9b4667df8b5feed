"""What schemathesis cannot invent: clients and people that exist, and tokens of flows that are under way.

Loaded by schemathesis in its own process (``SCHEMATHESIS_HOOKS``), see test_schemathesis.py. The shipped collection
walks up to the request that a case is about. Of four cases one stays as it was invented, one gets what names things,
one every field that the collection sends, and one is what the collection sends and nothing else. Which of them it is
hangs on the content of the case.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

from tests.api.collection import Runner, path_of
from tests.api.make import postman

COLLECTION = postman()
NAMES = ("client_id", "username", "continuation_token", "refresh_token", "id")
PLACES = [
    (path_of(item), folder, at) for folder in COLLECTION["item"] for at, item in enumerate(folder["item"])
]  # "Refresh" needs what "Password" leaves
BEFORE = {"Refresh": COLLECTION["item"][0]["item"]}


@schemathesis.hook  # type: ignore[untyped-decorator]  # it is in another environment
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Put in what exists."""
    if not isinstance(case.body, dict):
        return
    lot = zlib.crc32(json.dumps(case.body, sort_keys=True, default=str).encode())
    here = [(folder, at) for path, folder, at in PLACES if path == case.operation.path]
    if lot % 4 == 0:
        return
    folder, at = here[lot // 4 % len(here)]
    runner = Runner(COLLECTION, os.environ["SANDBOX_BASE_URL"])
    for item in [*BEFORE.get(folder["name"], []), *folder["item"][:at]]:
        runner.send(item)
    form = runner.prepared(folder["item"][at])
    if lot % 4 == 1:
        form = {name: value for name, value in form.items() if name in NAMES and name in case.body}
    if lot % 4 == 3:
        case.body.clear()
    case.body.update(form)
