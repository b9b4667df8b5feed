"""What the provider remembers: accounts, families, sessions, flow states, the tenant's log.

Pure, and all in memory. It knows no endpoint; the folders beside it read and change it.
"""
