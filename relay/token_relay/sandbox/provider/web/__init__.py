"""Sign-in with a browser: ``/authorize``, the login form, consent, sessions, device code, SAML.

Pure: pages and redirects are values.
"""
