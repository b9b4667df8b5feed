"""How this program begins every TLS connection: certificates are verified, and no key is written to a file.

``ssl.create_default_context`` does what SSLKEYLOGFILE of the environment says: it writes the keys of all connections to
that file, and with them the tokens. So the context is made by hand, as strict as that function makes it.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

STRICT = ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT if sys.version_info >= (3, 13) else 0


def client_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """Return a context that trusts the CAs of ``ca_file`` (PEM), or the system's. TLS 1.2 at least: RFC 9325 §3.1.1.

    Raises:
        OSError: the file cannot be read, or holds no certificate (ssl.SSLError is one).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= STRICT
    if ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=str(ca_file))
    return context
