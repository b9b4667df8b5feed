"""`make test-booted`: the wheel and the units in a small Debian that is booted with systemd as PID 1. Not pytest."""
