"""``python -m token_relay.cli``: the command, where nothing put it on the path."""

import sys

from token_relay.cli.main import main

sys.exit(main())
