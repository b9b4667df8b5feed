"""XML signatures for the sandbox's assertions, made with signxml and lxml, an extra (``token-relay[saml]``).

The key and its certificate are made at the first use. Only the canonical bytes that the signature covers are read
afterwards, so an unsigned assertion beside the signed one has no effect. XML with a document type is refused, so it
cannot declare entities.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml import DigestAlgorithm, SignatureConfiguration, SignatureMethod, XMLSigner, XMLVerifier, methods
from signxml.exceptions import SignXMLException

from token_relay.sandbox.provider.memory.state import VerifiedAssertion

_NS = {"saml": "urn:oasis:names:tc:SAML:2.0:assertion"}
_EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
XML_CHARS_MAX = 65_536


class SignxmlAssertions:
    """RSA-SHA256 with exclusive canonicalisation, enveloped in the assertion. XML Signature §8, SAML 2.0 core §5."""

    def __init__(self) -> None:
        self._pair: tuple[bytes, str] | None = None

    def sign(self, xml: str) -> str:
        """Return the assertion with its signature."""
        key, certificate = self._key_and_certificate()
        signer = XMLSigner(
            method=methods.enveloped,
            signature_algorithm=SignatureMethod.RSA_SHA256,
            digest_algorithm=DigestAlgorithm.SHA256,
            c14n_algorithm=_EXCLUSIVE,
        )
        root = _parsed(xml)
        assert root is not None, "built by this program"
        signed = signer.sign(root, key=key, cert=certificate, reference_uri=root.get("ID"))
        return str(etree.tostring(signed, encoding="unicode"))

    def verify(self, xml: str) -> VerifiedAssertion | None:
        """Return what the signed assertion says, or None."""
        root = _parsed(xml)
        if root is None:
            return None
        _, certificate = self._key_and_certificate()
        expected = SignatureConfiguration(
            signature_methods=frozenset({SignatureMethod.RSA_SHA256}),
            digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
            expect_references=1,
        )
        try:
            result = XMLVerifier().verify(root, x509_cert=certificate, id_attribute="ID", expect_config=expected)
        except (SignXMLException, etree.LxmlError, ValueError):
            return None
        signed = (result[0] if isinstance(result, list) else result).signed_xml
        if signed is None or signed.tag != f"{{{_NS['saml']}}}Assertion":
            return None

        def text(path: str) -> str:
            found = signed.xpath(path, namespaces=_NS)
            return str(found[0]) if len(found) == 1 else ""

        return VerifiedAssertion(
            assertion_id=text("@ID"),
            issuer=text("saml:Issuer/text()"),
            name_id=text("saml:Subject/saml:NameID/text()"),
            audience=text("saml:Conditions/saml:AudienceRestriction/saml:Audience/text()"),
            recipient=text("saml:Subject/saml:SubjectConfirmation/saml:SubjectConfirmationData/@Recipient"),
            not_before=text("saml:Conditions/@NotBefore"),
            not_on_or_after=text("saml:Conditions/@NotOnOrAfter"),
        )

    def _key_and_certificate(self) -> tuple[bytes, str]:
        if self._pair is None:
            key = rsa.generate_private_key(65_537, 2048)
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "token-relay sandbox")])
            builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
            # wide enough for every clock that the control interface can set
            builder = builder.not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
            certificate = builder.not_valid_after(datetime(2100, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256())
            private = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            self._pair = private, certificate.public_bytes(serialization.Encoding.PEM).decode()
        return self._pair


def _parsed(xml: str) -> etree._Element | None:
    if len(xml) > XML_CHARS_MAX or "<!DOCTYPE" in xml.upper():
        return None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError:
        return None
