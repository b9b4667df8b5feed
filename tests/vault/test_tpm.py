"""A credential sealed with a TPM: the vault opens with this TPM and not without it. The TPM is swtpm, in software."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import needs
from tests.watchdog import HANG_S
from token_relay.host.config import CompanionConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import create_home, key_source
from token_relay.vault.rekey import open_in_force

CONFIG = 'name = "watch"\n[broker]\nurl = "mqtt://127.0.0.1:1884"\n'
NAME = "token-relay-companion"


# systemd-creds loads the libraries when it meets a TPM, and no package of systemd's depends on them.
LIBRARIES = [f"libtss2-{name}.so.0" for name in ("esys", "rc", "mu", "tcti-swtpm")]
MISSING = needs.missing("swtpm", "systemd-creds", *LIBRARIES)
pytestmark = pytest.mark.skipif(MISSING != "", reason=MISSING)


def two_ports() -> int:
    """Return a port that is free together with the next, which the TPM's control channel takes."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@contextmanager
def tpm(state: Path) -> Iterator[str]:
    """Run a TPM and yield its name for systemd-creds."""
    state.mkdir(exist_ok=True)
    port = two_ports()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    command += ["--server", f"type=tcp,port={port},bindaddr=127.0.0.1"]
    command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1", "--flags", "not-need-init,startup-clear"]
    command += ["--pid", f"file={state / 'pid'}"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            while not (state / "pid").exists():  # written when it listens
                assert process.poll() is None, "swtpm ended"
            yield f"swtpm:host=127.0.0.1,port={port}"
        finally:
            process.terminate()


def creds(*words: str, tpm_name: str, content: bytes) -> subprocess.CompletedProcess[bytes]:
    command = ["systemd-creds", *words, f"--tpm2-device={tpm_name}", f"--name={NAME}", "-", "-"]
    return subprocess.run(command, input=content, capture_output=True, timeout=HANG_S, check=False)


def test_vault_opens_with_the_tpm_that_sealed_its_key_and_with_no_other(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text(CONFIG)
    (home / "config.toml").chmod(0o600)
    made = create_home("companion", home, CONFIG)
    with tpm(tmp_path / "tpm") as ours:
        sealed = creds("encrypt", "--with-key=tpm2", tpm_name=ours, content=os.urandom(32))
        assert sealed.returncode == 0, sealed.stderr
        opened = creds("decrypt", tpm_name=ours, content=sealed.stdout)
        assert len(opened.stdout) == 32, opened.stderr
        assert opened.stdout not in sealed.stdout

        command = [sys.executable, "-m", "token_relay.cli", "vault", "rekey", "--home", str(home), "--to", "credential"]
        command += ["--credential", NAME, "--credential-from", "-"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
        ran = subprocess.run(
            command, input=opened.stdout, capture_output=True, env=environment, timeout=HANG_S, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert not (home / "vault.key").exists()

        credentials = tmp_path / "credentials"  # as the service manager fills it for the service
        credentials.mkdir()
        (credentials / NAME).write_bytes(creds("decrypt", tpm_name=ours, content=sealed.stdout).stdout)
        config = check_config(CompanionConfig, (home / "config.toml").read_text(), home)
        assert isinstance(config, CompanionConfig)
        source = key_source(home, config.vault, {"CREDENTIALS_DIRECTORY": str(credentials)})
        open_in_force(home / "vault.db", source).close_now()
        assert made.device_id
    with tpm(tmp_path / "stolen") as theirs:
        refused = creds("decrypt", tpm_name=theirs, content=sealed.stdout)
        assert refused.returncode != 0
        assert refused.stdout == b""
