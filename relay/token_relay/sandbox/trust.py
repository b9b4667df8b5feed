"""What makes a client trust the sandbox's own certificate: one shell line each for Node, Python, curl and Chromium.

The CA is looked for where ``token-relay certs`` puts it: ``ca.pem`` beside the certificate. A certificate that vouches
for itself, alone or at the end of its chain, is its own. Where neither is found, as with a public certificate, the
machine's own list decides and there is nothing to say. The files are only read; nothing is installed anywhere.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shlex
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CA_NAME = "ca.pem"


def trust_lines(certificate: Path) -> dict[str, str]:
    """Return the lines by client; none without a CA, and none where OpenSSL takes a file that is no plain PEM.

    Chromium has no file for this: it is told the one key, in a profile that ends with it, as it heeds that option in
    a profile of its own only.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        key = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (OSError, ValueError, UnsupportedAlgorithm):
        return {}
    ca = _ca_of(certificate.absolute(), chain)
    if ca is None:
        return {}
    path = shlex.quote(str(ca))
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return {
        "node": f"export NODE_EXTRA_CA_CERTS={path}",
        "python": f"export SSL_CERT_FILE={path} REQUESTS_CA_BUNDLE={path}",
        "curl": f"export CURL_CA_BUNDLE={path}",
        "chromium": f'chromium --user-data-dir="$(mktemp -d)" --ignore-certificate-errors-spki-list={pin}',
    }


def _ca_of(certificate: Path, chain: list[x509.Certificate]) -> Path | None:
    if _has_signed(chain[-1], chain[-1]):
        return certificate
    beside = certificate.with_name(CA_NAME)
    with contextlib.suppress(OSError, ValueError):
        if _has_signed(x509.load_pem_x509_certificate(beside.read_bytes()), chain[-1]):
            return beside
    return None


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
