"""Native authentication from the provider's side: sign-in, sign-up, password reset, second factor, registration.

Pure: each call takes the flow's state and returns the next step or a refusal. Tokens are made in ``tokens/``.
"""
