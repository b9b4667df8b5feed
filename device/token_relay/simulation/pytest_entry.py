"""What the entry point ``pytest11`` names: it hands on to the plugin.

The plugin has there the name that ``-p`` and ``pytest_plugins`` give it too, and so pytest takes it once.
"""

pytest_plugins = ("token_relay.simulation.pytest_plugin",)
