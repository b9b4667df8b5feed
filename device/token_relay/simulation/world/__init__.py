"""The devices, their people, broker and provider of one simulated world, and its states put away and restored."""
