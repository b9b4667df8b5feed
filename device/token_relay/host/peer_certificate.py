"""Says why a server's certificate is not accepted: expired, not valid yet, of another name, of an unknown CA.

OpenSSL's verdict has no names and no dates, and Python gives the certificate of a failed handshake to nobody. So the
server is asked once more, without verification and without sending anything, and the connection is closed at once.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime

from cryptography import x509

LOOK_S_MAX = 5.0
NAME_CHARS_MAX = 64
NAMES_MAX = 4  # a certificate of a large site has a hundred
# X509_V_ERR_…; openssl-verification-options(1)
NOT_YET_VALID, EXPIRED = frozenset({9, 13}), frozenset({10, 14})
OTHER_NAME = frozenset({62, 64})
UNKNOWN_CA = frozenset({18, 19, 20, 21, 27})


def look(host: str, port: int, server_name: str) -> x509.Certificate | None:
    """Return the certificate that a server shows, unverified; None when there is none. Blocks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=LOOK_S_MAX) as plain,
            context.wrap_socket(plain, server_hostname=server_name) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(shown) if shown else None
    except (OSError, ValueError):
        return None


def why(error: ssl.SSLCertVerificationError, shown: x509.Certificate | None, now_s: float) -> str:
    """Continue the sentence "the certificate of HOST …"; ``shown`` is what :func:`look` has seen."""
    now = datetime.fromtimestamp(now_s, UTC)
    clock = f"the clock here says {_moment(now)}"
    if error.verify_code in EXPIRED:
        if shown is None or shown.not_valid_after_utc >= now:
            return f"or that of its CA has expired, {clock}"
        return f"expired on {_moment(shown.not_valid_after_utc)}, {clock}"
    if error.verify_code in NOT_YET_VALID:
        begins = f" before {_moment(shown.not_valid_before_utc)}" if shown is not None else " yet"
        return f"is not valid{begins}, {clock}"
    if error.verify_code in OTHER_NAME:
        return f"is for another name: {', '.join(names(shown)) or 'it names none'}"
    if error.verify_code in UNKNOWN_CA:
        return f"is of a CA that is not known here{f': {_issuer(shown)}' if shown is not None else ''}"
    return f"is not accepted: {error.verify_message}"


def names(certificate: x509.Certificate | None) -> list[str]:
    """Return the names and addresses that a certificate is for, the first few of them. RFC 9525 §6.1."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if certificate else ()
    except (x509.ExtensionNotFound, ValueError):
        return []
    known = [str(one.value)[:NAME_CHARS_MAX] for one in found if isinstance(one, x509.DNSName | x509.IPAddress)]
    return [*known[:NAMES_MAX], *(["…"] if len(known) > NAMES_MAX else [])]


def _issuer(certificate: x509.Certificate) -> str:
    found = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    name = str(found[0].value) if found else certificate.issuer.rfc4514_string()
    return name[:NAME_CHARS_MAX] or "it has no name"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%MZ}"
