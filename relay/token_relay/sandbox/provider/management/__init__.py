"""The management API under ``/api/v2/``: clients, grants, sessions, the tenant's log. Pure, like the whole core."""
