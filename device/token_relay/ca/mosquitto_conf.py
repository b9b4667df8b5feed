"""Writes the text of ``mosquitto.conf`` for a broker that serves only this relay.

Pure: a directory and a port in, text out. Each line has its reason beside it in the file, because an operator with a
broken broker may have nothing else to read. The access list comes from :func:`token_relay.protocol.topics.broker_acl`.
``certs/mosquitto.conf.example`` is this text for one directory; a test keeps the two equal.

The settings are for mosquitto 2.0.11 and later; the measurements in the comments were made with that version.
"""

from __future__ import annotations

from pathlib import Path

from token_relay.protocol.errors import ConfigError

CONF_NAME = "mosquitto.conf"
ACL_NAME = "acl"
CA_NAME = "ca.pem"
CRL_NAME = "crl.pem"
CERTIFICATE_NAME = "broker.pem"
KEY_NAME = "broker.key"
DATA_NAME = "data"
FILE_NAMES = (CONF_NAME, ACL_NAME, CA_NAME, CRL_NAME, CERTIFICATE_NAME, KEY_NAME)

MQTTS_PORT = 8883  # IANA: secure-mqtt
PACKET_BYTES_MAX = 20_480  # the larger of the two envelope sizes (16 528 bytes), topic and properties, and some room
# Per device that is away; 16 MB of large envelopes at worst, which a small Pi can spare. Overflow costs a resend and
# never a message: the sender keeps each one until the other end has answered it.
QUEUED_MESSAGES_MAX = 1000


def mosquitto_conf(directory: Path, *, port: int = MQTTS_PORT) -> str:
    """Return a complete configuration whose files lie in ``directory`` (absolute).

    Raises:
        ConfigError: the path or the port cannot be written into the file.
    """
    path = str(directory)
    if not directory.is_absolute() or not path.isprintable() or path != path.strip():
        raise ConfigError(f"mosquitto.conf cannot name the directory {path!a}", hint="use a plain absolute path")
    if not 0 < port < 65536:
        raise ConfigError(f"a port is 1 to 65535, not {port}")
    # One text in one piece, however long: it is read as the file that it becomes.
    return f"""\
# mosquitto.conf for the token relay, written by `token-relay certs init`. It is the whole configuration:
#     mosquitto -c {path}/{CONF_NAME}

# -- Who may come in: devices with a certificate from our CA, nobody else.

listener {port}
cafile {path}/{CA_NAME}
certfile {path}/{CERTIFICATE_NAME}
keyfile {path}/{KEY_NAME}
tls_version tlsv1.2
require_certificate true
allow_anonymous false

# Revoked certificates. Read at the start and at SIGHUP, and asked only when a device connects: after SIGHUP a
# revoked device is refused but keeps the connection that it has. A *restart* ends that too.
crlfile {path}/{CRL_NAME}

# The certificate's common name, a device id, is the user, so the access list below knows who it is ...
use_identity_as_username true
# ... and the client id as well. Without this a device could connect under the client id of another
# and so take over, or empty, the queue of messages that waits for it.
use_username_as_clientid true

# -- Who may do what: read what is addressed to you, write under your own name, and the pairing mailboxes.

acl_file {path}/{ACL_NAME}

# -- What survives: messages wait for a device that is away, also across a crash of the broker.

persistence true
persistence_location {path}/{DATA_NAME}/
# Write the store after each change, not each half hour: without these two lines kill -9 lost every message that
# the broker had acknowledged (5 of 5). With them the store is written right *after* the acknowledgement: killed
# in that very instant it still loses it (19 of 20), from 1 ms later on it does not (0 of 70; all measured).
# The relay counts on neither: its sender keeps a message until the other end has answered.
autosave_on_changes true
autosave_interval 1
# An MQTT 3.1.1 session has no end of its own; the queue of a device that never returns needs one.
persistent_client_expiration 30d

# -- How fast: Nagle's algorithm meets delayed ACK when an acknowledgement and a message follow each other on one
#    connection. A round trip takes 44 ms without this line and 1.3 ms with it, if the devices set TCP_NODELAY
#    too; if they do not, 88 ms and 44 ms (measured).

set_tcp_nodelay true

# -- How much: an envelope has 16460 bytes at most; a full queue drops, and the sender sends again.

max_packet_size {PACKET_BYTES_MAX}
max_queued_messages {QUEUED_MESSAGES_MAX}
# Nothing in the relay is retained, so nobody stores anything here for ever.
retain_available false
"""
