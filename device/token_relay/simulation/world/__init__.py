"""The devices, people, broker and provider of one simulated world, and snapshots of its state."""
