"""Topic names, topic filters and whether one falls under the other. MQTT 5 §4.7; the same in 3.1.1. Pure."""

from __future__ import annotations


def is_topic(topic: str) -> bool:
    """Say whether this names a topic: not empty, no wildcard."""
    return bool(topic) and "+" not in topic and "#" not in topic


def is_filter(topic_filter: str) -> bool:
    """Say whether this is a topic filter: wildcards fill whole levels, ``#`` only the last. MQTT 5 §4.7.1."""
    levels = topic_filter.split("/")
    return (
        bool(topic_filter)
        and all(level in ("+", "#") or not set(level) & {"+", "#"} for level in levels)
        and "#" not in levels[:-1]
    )


def is_match(topic_filter: str, topic: str) -> bool:
    """Say whether a topic falls under a valid filter; ``$…`` topics do not fall under a wildcard. MQTT 5 §4.7.2."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
