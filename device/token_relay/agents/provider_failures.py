"""What a person does when the provider gave no answer, by the words in which the HTTP port says why. Pure."""

from __future__ import annotations

# Parts of the port's reasons, and the one thing to do about each. The first that fits counts.
HERE = (  # on both ends
    ("is not accepted: ", "the provider must get a certificate that passes this check"),
    ("is of a CA that is not known", 'write ca = "/path/to/its-ca.pem" under [provider] in config.toml, and restart'),
    ("is not valid", "set the clock of this machine"),
    ("has expired", "the provider must renew its certificate"),
    ("expired on", "the provider must renew its certificate"),
    ("the CA file", "make that file readable to the agent, or correct provider.ca in config.toml"),
)
AT_THE_PHONE = (  # whose settings name the provider; a companion has its address from there
    ("is for another name", "write one of these names in provider.url in config.toml, and restart"),
    ("TLS with", "correct provider.url in config.toml: that port does not speak TLS"),
    ("cannot be resolved", "correct the host of provider.url in config.toml, or bring the network up"),
    ("refused: the URL", "correct provider.url in config.toml"),
    ("connection refused", "start the provider, or correct provider.url in config.toml"),
)


def action_for(reason: str, *, is_phone: bool = False) -> str:
    """Return what to do about a reason; nothing where only another try helps."""
    known = (*HERE, *AT_THE_PHONE) if is_phone else HERE
    return next((action for part, action in known if part in reason), "")
