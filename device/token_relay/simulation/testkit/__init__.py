"""What an app's tests use: one interface, in virtual time or over real processes; see ``docs/testing-your-app.md``."""
