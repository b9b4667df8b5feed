"""What a refusal means to a person: our words for the provider's codes; its own text never reaches the screen."""

from __future__ import annotations

from token_relay.provider.native_auth.states import Again, Failed
from token_relay.provider.tokens import ErrorAnswer

BY_ERROR = {
    "user_not_found": "the provider knows no account with this name",
    "user_already_exists": "there is an account with this name already",
    "unauthorized_client": "the provider does not know this client_id in this tenant",
    "unsupported_challenge_type": "the provider does not accept the ways of signing in that were offered",
    "invalid_scope": "the provider does not grant this scope",
    "interaction_required": "a rule of the tenant stands against it; only a browser or the administrator can help",
    "consent_required": "consent is missing for this client_id",
    "expired_token": "it took too long; begin again",
}
BY_SUBERROR = {
    "expired_token": "it took too long; begin again",
    "nativeauthapi_disabled": "native authentication is not switched on for this client_id",
    "provider_blocked_by_rep": "the provider does not send codes to this address",
    "invalid_oob_value": "wrong code",
    "attribute_validation_failed": "the provider does not accept some of the attributes",
    "password_too_weak": "the password is too weak: mix small and capital letters, digits and symbols",
    "password_too_short": "the password is too short",
    "password_too_long": "the password is too long",
    "password_recently_used": "the password was used before",
    "password_banned": "the password is on the list of forbidden ones",
    "password_is_invalid": "the password holds characters that are not allowed",
}
BY_CODE = {
    50126: "wrong password",
    50034: "the provider knows no account with this name",
    50053: "the account is locked for a while after too many failed attempts",
    50057: "the account is disabled",
    50142: "the password must be reset before the next sign-in",
    50055: "the password has expired",
    500222: "this account has no password; it signs in with a code",
    55200: "the provider no longer accepts this step; begin again",
    90100: "the provider finds the user name or client_id empty or invalid",
    901001: "the provider does not accept this address or number",
    53003: "a rule of the tenant blocks this sign-in",
    65001: "consent is missing for this client_id",
}


def failed(
    error: ErrorAnswer,
    *,
    retryable: bool,
    detail: str = "",
    again: Again | None = None,
    retry_after_s: float | None = None,
) -> Failed:
    """Return the failure for this error, with a sentence for the person."""
    if not detail:
        by_code = next((BY_CODE[code] for code in error.codes if code in BY_CODE), "")
        detail = BY_SUBERROR.get(error.suberror) or by_code or BY_ERROR.get(error.error) or ""
    return Failed(
        retryable=retryable,
        error=error.error,
        codes=error.codes,
        trace_id=error.trace_id,
        correlation_id=error.correlation_id,
        detail=detail or "the provider refused this step",
        retry_after_s=retry_after_s,
        again=again,
        suberror=error.suberror,
    )


def bad_answer(detail: str) -> Failed:
    """Return the failure for an answer of the wrong shape."""
    return Failed(retryable=False, error="bad_answer", detail=detail)


def is_over(error: ErrorAnswer) -> bool:
    """Whether only this run of the flow has ended: its continuation token is too old or no longer known."""
    return "expired_token" in (error.error, error.suberror) or 55200 in error.codes
