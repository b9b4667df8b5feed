"""The checks of ``doctor``. Each module knows one part of the machine; none of them changes anything for good."""
