"""The local socket at which apps get access tokens, and the policy that says who may have which.

I/O; the policy is pure. The kernel names the caller. No refresh token comes here.
"""
