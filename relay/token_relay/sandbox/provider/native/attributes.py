"""What a person tells about themselves when signing up: parsed, checked, compared with what the tenant demands.

``attributes`` is a string that holds a JSON object. Names that are neither asked for nor built in are ignored, as
documented. Values may be text, number or boolean; several choices are joined by commas, by the client.
"""

from __future__ import annotations

import json
import re

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal
from token_relay.sandbox.provider.world.model import AttributeModel, PolicyModel

VALUE_CHARS_MAX = 256
ATTRIBUTES_MAX = 50
BUILT_IN = frozenset(
    {
        *("displayName", "givenName", "surname", "jobTitle", "streetAddress", "city", "state", "postalCode", "country"),
    }
)


def asked_attributes(policy: PolicyModel, params: Params) -> dict[str, str]:
    """Return the attributes of the request that mean something here. Raises Refusal."""
    text = params.get("attributes")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or len(found) > ATTRIBUTES_MAX:
        raise Refusal("invalid_request", "attributes parameter is empty or not valid.", code=90100)
    demanded = {one.name: one for one in policy.required_attributes}
    kept: dict[str, str] = {}
    invalid: list[JsonValue] = []
    for name, value in found.items():
        if name not in demanded and name not in BUILT_IN and not name.startswith("extension_"):
            continue
        spelled = _text(value)
        if spelled is None or not _fits(demanded.get(name), spelled):
            invalid.append({"name": name[:128]})
        else:
            kept[name] = spelled
    if invalid:
        raise Refusal(
            "invalid_grant",
            "One or more attributes are not valid.",
            code=55104,
            suberror="attribute_validation_failed",
            more={"invalid_attributes": invalid},
        )
    return kept


def missing_attributes(policy: PolicyModel, given: dict[str, str]) -> list[AttributeModel]:
    """Return the attributes that are demanded and not given."""
    return [one for one in policy.required_attributes if one.required and not given.get(one.name)]


def described(attribute: AttributeModel) -> JsonValue:
    """Return an attribute as version 1 of the API tells it."""
    body: dict[str, JsonValue] = {
        "name": attribute.name,
        "type": attribute.type,
        "required": attribute.required,
    }
    if attribute.regex is not None:
        body["options"] = {"regex": attribute.regex}
    return body


def _text(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if abs(value) < 2**63 else None
        case str() if len(value) <= VALUE_CHARS_MAX and value.isprintable():
            return value
        case _:
            return None


def _fits(attribute: AttributeModel | None, value: str) -> bool:
    if attribute is None or not value:
        return True
    match attribute.type:
        case "Int64":
            has_type = re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII) is not None
        case "Boolean":
            has_type = value in {"true", "false"}
        case "String":
            has_type = True
    return has_type and (attribute.regex is None or re.fullmatch(attribute.regex, value) is not None)
