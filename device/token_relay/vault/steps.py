"""The versions of the agents' vaults, each as what it changed: 1 is where it began, the last one is today's.

A step that was released is never edited: homes were written by it. What to do for a new one: docs/updating.md.
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
