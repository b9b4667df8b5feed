"""The kit for an app's tests, in virtual time or over real processes; see ``docs/testing-your-app.md``."""
