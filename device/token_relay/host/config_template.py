"""The commented configuration that ``init`` writes, made from the models in :mod:`token_relay.host.config`. Pure.

Every setting stands there with its explanation. A setting that was not chosen is a comment that shows the default,
so that a later version may change a default without editing a person's file.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from token_relay.host.config import MODELS, Kind, settings
from token_relay.host.config_values import Section, table_of

Setting = str | int | bool | list[str] | list[int] | dict[str, str]
COMMENT_CHARS_MAX = 98  # readable beside a shell on a small screen


def template(kind: Kind, values: Mapping[str, Setting]) -> str:
    """Return a commented configuration: ``values`` (by dotted key) are set, every other setting is a comment."""
    model = MODELS[kind]
    unknown = set(values) - {key for key, _ in settings(model)}
    assert not unknown, f"not settings: {unknown}"
    top: list[str] = [
        f"# Configuration of the {kind}'s agent of token-relay.",
        "# A line with # before its setting shows the default. Relative paths start at this file's directory.",
    ]
    tables: list[str] = []
    for name, field in model.model_fields.items():
        table, is_list = table_of(field.annotation)
        if table is not None:
            tables += _table(name, field.description or "", table, values, is_list=is_list)
        else:
            top += ["", *_comment(field.description or ""), _line(name, values.get(name), field.default)]
    return "\n".join(top + tables) + "\n"


def _table(
    name: str, description: str, table: type[Section], values: Mapping[str, Setting], *, is_list: bool
) -> list[str]:
    header = f"[[{name}]]" if is_list else f"[{name}]"
    is_there = not is_list or any(key.startswith(f"{name}.") for key in values)
    lines = ["", "", *_comment(description), header if is_there else f"# {header}"]
    nested: list[str] = []
    for key, setting in table.model_fields.items():
        below, _ = table_of(setting.annotation)
        if below is not None:
            nested += _table(f"{name}.{key}", setting.description or "", below, values, is_list=False)
            continue
        lines += ["", *_comment(setting.description or ""), _line(key, values.get(f"{name}.{key}"), setting.default)]
    return lines + nested


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, width=COMMENT_CHARS_MAX, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )


def _line(key: str, value: Setting | None, default: object) -> str:
    if value is not None:
        return f"{key} = {_toml(value)}"
    return f"# {key} = {_toml(default)}" if isinstance(default, str | int | list | dict) else f"# {key} ="


def _toml(value: Setting) -> str:
    # TOML's basic strings take JSON's escapes (TOML 1.0.0, String); DEL, the exception, is not printable
    # and so refused by every check that a value meets before it gets here. An array is written alike in both.
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)
