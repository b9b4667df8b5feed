"""The versions of the agents' vaults, each as what it changed: 1 is the first, the last one is today's.

A released step is never edited: vaults were written by it. docs/updating.md says how to add one.
"""

from __future__ import annotations

from token_relay.vault.schema import NewTable, OldColumn, SchemaStep

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
)
