"""A real agent process: no core dump, not open to others of its user, no secret in argv or environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.watchdog import HANG_S
from token_relay.host.home import create_home
from token_relay.protocol.secret import Password
from token_relay.vault.keys import PassphraseKey

PASSPHRASE = "correct horse battery staple"


def test_running_agent_leaves_no_core_and_shows_no_secret(short_path: Path) -> None:
    home, file = short_path / "home", short_path / "passphrase"
    home.mkdir(mode=0o700)
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    config = f'name = "w"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n[vault]\npassphrase_file = "{file}"\n'
    (home / "config.toml").write_text(config)
    (home / "config.toml").chmod(0o600)
    PassphraseKey(home / "vault.kdf", Password(PASSPHRASE)).create(memory_bytes=64 * 1_048_576)
    create_home("companion", home, config)
    key = PassphraseKey(home / "vault.kdf", Password(PASSPHRASE)).load().reveal()

    command = [sys.executable, "-m", "token_relay.cli", "companion", "run", "--home", str(home)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stderr is not None
            for line in agent.stderr:
                if "agent_started" in line:
                    break
            else:
                raise AssertionError("the agent did not start")
            proc = Path(f"/proc/{agent.pid}")
            limits = {line[:26].strip(): line[26:].split() for line in (proc / "limits").read_text().splitlines()}
            shown = (proc / "cmdline").read_bytes()
            # the kernel gives the files of a process that is not dumpable to root, whoever runs it: proc(5)
            assert (proc / "environ").stat().st_uid == 0
            if os.geteuid() == 0:
                shown += (proc / "environ").read_bytes()
            else:
                with pytest.raises(PermissionError):
                    (proc / "environ").read_bytes()
        finally:
            agent.terminate()
        agent.communicate(timeout=HANG_S)  # its last output needs a reader: without one it ends with 120
    assert agent.returncode == 0
    assert limits["Max core file size"][:2] == ["0", "0"]
    assert str(home).encode() in shown, "the process that was looked at is the agent"
    for secret in (PASSPHRASE.encode(), key, key.hex().encode()):
        assert secret not in shown
