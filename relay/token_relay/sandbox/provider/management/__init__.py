"""The management API under ``/api/v2/``: clients, grants, sessions, the tenant's log. Pure, as the whole core."""
