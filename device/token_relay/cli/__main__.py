"""Runs the command as ``python -m token_relay.cli``, for installations without ``token-relay`` on the path."""

import sys

from token_relay.cli.main import main

sys.exit(main())
