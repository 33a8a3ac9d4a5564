"""An SSH server of this machine's own program, apart from any of the system's, and a bad line to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from slurm import free_ports

PROGRAMS = ("setpriv", "sshd", "ssh-keygen", "sftp")
PATIENCE = 15.0  # seconds
BLOCK = 1 << 14
SETTINGS = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


class NotAvailable(Exception):
    """There is no SSH server to be had on this machine, and why."""


@dataclass(frozen=True)
class Server:
    """A running SSH server on 127.0.0.1, which lets this user in by a key.

    Attributes:
        port: where it listens.
        key: the file of the private key.
    """

    port: int
    key: Path

    def address(self, folder: Path) -> str:
        """A folder of this machine, as DVC names it over SSH."""
        return f"ssh://{getuser()}@127.0.0.1:{self.port}{folder}"


@contextmanager
def server() -> Iterator[Server]:
    """An SSH server.

    Raises:
        NotAvailable: programs are missing, or it doesn't let this user in.
    """
    # Administrators' programs are not on everybody's path.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        raise NotAvailable(f"no {', '.join(missing)} (Debian: openssh-server)")
    if os.getuid() == 0:
        # Which it wants to exist where it has rights to give up.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ssh-") as name:
        folder = Path(name)
        for key in ("host", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True)
        (found,) = free_ports(1)
        settings = folder / "sshd_config"
        settings.write_text(SETTINGS.format(folder=folder, port=found), encoding="utf-8")
        with (folder / "log").open("w") as log:
            daemon = subprocess.Popen(
                # Even if the tests are killed, nothing stays behind. By its full path, as it insists.
                [
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    str(shutil.which("sshd", path=path)),
                    "-D",
                    "-e",
                    "-f",
                    settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            running = Server(found, folder / "key")
            _wait(running, daemon, folder / "log")
            yield running
        finally:
            daemon.terminate()
            daemon.wait(PATIENCE)


def _wait(running: Server, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it lets us in."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={os.devnull}"]
    command = ["sftp", "-q", "-F", os.devnull, "-P", str(running.port), "-i", str(running.key)]
    command += [f"-o{option}" for option in options] + ["-b", "-", f"{getuser()}@127.0.0.1"]
    until = time.monotonic() + PATIENCE
    while subprocess.run(command, input=b"pwd\n", capture_output=True, check=False).returncode != 0:
        if time.monotonic() > until or daemon.poll() is not None:
            raise NotAvailable(f"no SSH server starts here: {log.read_text(encoding='utf-8')[-1000:]}")
        time.sleep(0.1)


class Line:
    """A way to a server on this machine that breaks, for good, once so many bytes have come from there.

    Attributes:
        port: where it begins.
        passed: bytes that have come from the server so far.
    """

    def __init__(self, to: int) -> None:
        self.passed = 0
        self._to = to
        self._limit = float("inf")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def break_after(self, count: float) -> None:
        """Let so many bytes more pass from the server."""
        self._limit = self.passed + count

    def close(self) -> None:
        """Take it down."""
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.passed > self._limit:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                threading.Thread(target=self._carry, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, True), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while self.passed <= self._limit and (data := source.recv(BLOCK)):
                self.passed += len(data) if counted else 0
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def line(to: int) -> Iterator[Line]:
    """A line to a port of this machine."""
    with closing(Line(to)) as made:
        yield made
