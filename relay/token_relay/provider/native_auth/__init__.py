"""Entra External ID native authentication, as its client: sign-in, sign-up, password reset; no browser.

A flow is a chain of POSTs, each carrying the continuation token of the one before. Here every step takes a state and
returns the next one as a value, with the latest continuation token inside it as a secret. Nothing is stored; a caller
that drops the state gives up the flow.

    SignIn.start() -> PasswordRequired | CodeRequired
    SignUp.start() -> CodeRequired -> [NewPasswordRequired] -> [AttributesRequired]
    PasswordReset.start() -> CodeRequired -> NewPasswordRequired -> ResetPending -> poll()
    each of them -> [MfaRequired -> CodeRequired] | [RegistrationRequired -> CodeRequired] -> Completed
    any step -> Redirect | Failed

Invariants. A failed attempt does not consume the continuation token, so a retry carries the same one, or the newer
one that the error brought. A code gets three tries here, whatever the provider allows. ``expired_token``, as error or
as suberror, begins the flow anew once, from its first call. Errors that only a person or an administrator can mend
(such as ``interaction_required`` and ``consent_required``) are never tried again.
:func:`token_relay.provider.oauth.classify` judges the token answers, like all others.

``wire`` says what is sent and what may come back, ``states`` what a step can come to, ``refusals`` what a person is
told, ``service`` makes one call, ``flow`` holds what the three flows share. "Find your e-mail" by phone number is left
out on purpose: it would show anybody whether an account exists.

Reference: Microsoft Entra "native authentication API reference", version 1.
"""
