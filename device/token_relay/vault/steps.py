"""The versions of the agents' vaults, each as what it changed: 1 is the first, the last one is today's.

A released step is never edited: vaults were written by it. docs/updating.md says how to add one.
"""

from __future__ import annotations

from token_relay.vault.records import StoredValue
from token_relay.vault.schema import Add, ChangedTable, NewTable, OldColumn, Rekey, SchemaStep, SqlType


def _add(after: str, name: str, sql_type: SqlType, value: StoredValue) -> Add:
    return Add(OldColumn(name, sql_type), after, lambda row: value)


STEPS: tuple[SchemaStep, ...] = (
    SchemaStep(
        2,
        (
            NewTable(
                "board",
                key=("name",),
                columns=(
                    OldColumn("name", "TEXT"),
                    OldColumn("components", "TEXT"),
                    OldColumn("recorded_at", "INTEGER"),
                ),
            ),
        ),
    ),
    SchemaStep(
        3,
        (
            ChangedTable(
                "grants",
                (
                    _add("intent_attempts", "intent_sent", "TEXT", ""),
                    # Older programs kept an intent open after any unknown outcome: nobody knows what came.
                    _add("intent_sent", "intent_came", "TEXT", ""),
                    _add("intent_came", "refused", "TEXT", ""),
                    _add("refused", "refused_times", "INTEGER", 0),
                    _add("refreshed", "life_told_s", "REAL", 0.0),
                    _add("life_told_s", "life_longest_s", "REAL", 0.0),
                    _add("life_longest_s", "is_life_fixed", "INTEGER", 0),
                    _add("lease_wall", "said", "TEXT", ""),
                    _add("said", "said_at", "INTEGER", 0),
                    _add("said_at", "note", "TEXT", ""),
                    _add("correlation_id", "sid", "TEXT", ""),
                    _add("sid", "is_sole", "INTEGER", 0),
                ),
                sealed=("refresh_token",),
                sealed_under="{grant_id}",
            ),
            ChangedTable(
                "phone_handoffs",
                (_add("profile", "sid", "TEXT", ""),),
                sealed=("held_token",),
                sealed_under="{handoff_id}",
            ),
        ),
    ),
    # What a peer names gets a name space of its own: one peer's handoff can no longer be another's, nor a grant.
    SchemaStep(
        4,
        (
            ChangedTable(
                "pairings",
                (
                    _add("renew_denied", "speaks", "INTEGER", 0),
                    _add("speaks", "strategies", "TEXT", ""),
                ),
            ),
            ChangedTable(
                "grants",
                (
                    _add("is_sole", "behaviour", "TEXT", ""),
                    Rekey(("grant_id",), "grant:{grant_id}"),
                ),
                sealed=("refresh_token",),
                sealed_under="{grant_id}",
            ),
            ChangedTable(
                "access_tokens",
                (Rekey(("grant_id", "scope"), "grant:{grant_id}"),),
                sealed=("access_token",),
                sealed_under="{grant_id}",
            ),
            ChangedTable(
                "phone_handoffs",
                (
                    _add("accept_hash", "grant_version", "INTEGER", 1),
                    Rekey(("pairing_id", "handoff_id"), "handoff:{pairing_id}:{handoff_id}"),
                ),
                sealed=("held_token",),
                sealed_under="{handoff_id}",
            ),
            ChangedTable(
                "companion_handoffs",
                (
                    _add("client_id", "account", "TEXT", ""),
                    _add("account", "renews", "TEXT", ""),
                    Rekey(("pairing_id", "handoff_id"), "handoff:{pairing_id}:{handoff_id}"),
                ),
                sealed=("one_time_key",),
                sealed_under="{handoff_id}",
            ),
            NewTable(
                "primary_phone",
                key=("name",),
                columns=(
                    OldColumn("name", "TEXT"),
                    OldColumn("peer_id", "TEXT"),
                    OldColumn("chosen_at", "INTEGER"),
                ),
            ),
            NewTable(
                "damaged",
                key=("number",),
                columns=(
                    OldColumn("number", "INTEGER"),
                    OldColumn("table_name", "TEXT"),
                    OldColumn("row", "TEXT"),
                ),
            ),
        ),
    ),
    # A device says what it calls itself, and a person may call it otherwise. Nobody knows who named the older ones.
    # An administrator who has to end a lost device's sessions is told the person's id.
    SchemaStep(
        5,
        (
            ChangedTable(
                "pairings",
                (
                    _add("strategies", "own_name", "TEXT", ""),
                    _add("own_name", "is_name_given", "INTEGER", 0),
                    _add("is_name_given", "replaced_by", "TEXT", ""),
                ),
            ),
            ChangedTable(
                "grants",
                (_add("behaviour", "user_id", "TEXT", ""),),
                sealed=("refresh_token",),
                sealed_under="grant:{grant_id}",
            ),
            ChangedTable(
                "phone_handoffs",
                (_add("sid", "user_id", "TEXT", ""),),
                sealed=("held_token",),
                sealed_under="handoff:{pairing_id}:{handoff_id}",
            ),
            NewTable(
                "own_name",
                key=("name",),
                columns=(OldColumn("name", "TEXT"), OldColumn("called", "TEXT"), OldColumn("configured", "TEXT")),
            ),
        ),
    ),
    # A companion tells the phone why a token was lost.
    SchemaStep(
        6,
        (
            ChangedTable(
                "companion_handoffs",
                (
                    _add("access_token_ends_at", "lost_reason", "TEXT", ""),
                    _add("lost_reason", "lost_field", "TEXT", ""),
                ),
                sealed=("one_time_key",),
                sealed_under="handoff:{pairing_id}:{handoff_id}",
            ),
        ),
    ),
)
