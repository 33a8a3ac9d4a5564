"""A SLURM of one node, of this machine's own programs, that shares nothing with a SLURM of the system's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sinfo", "sbatch", "squeue", "scancel")
PATIENCE = 30.0  # seconds
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
# A job that takes more memory than it asked for is killed, as by cgroups on a cluster.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
# Ended jobs are to be known until the test has asked for them, however slow the machine.
MinJobAge=3600
KillWait=2
# What the node is said to have, whatever this machine has: jobs take turns, but never wait for ever.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NotAvailable(Exception):
    """There is no SLURM to be had on this machine, and why."""


@contextmanager
def single_node() -> Iterator[dict[str, str]]:
    """A running SLURM; the environment variables by which its commands find it.

    Raises:
        NotAvailable: programs are missing, or don't start here.
    """
    # Administrators' programs are not on everybody's path.
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        raise NotAvailable(f"no {', '.join(missing)} (Debian: slurm-wlm, munge)")
    with ExitStack() as stack:
        # Not below pytest's folder: the name of a socket has room for 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        settings = folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        text = SETTINGS.format(folder=folder, host=host, ports=free_ports(2), user=getuser())
        settings.write_text(text, encoding="utf-8")
        found = {"PATH": path, "SLURM_CONF": str(settings)}
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        munge.append(f"--socket={folder}/munge.socket")
        # --force: of a folder like this one it would only serve root, and not without complaint.
        for daemon in (
            ["munged", "--foreground", "--force", *munge],
            ["slurmctld", "-D", "-i"],
            ["slurmd", "-D"],
        ):
            stack.enter_context(_running(daemon, folder, {**os.environ, **found}))
        _wait(folder, {**os.environ, **found})
        try:
            yield found
        finally:
            subprocess.run(["scancel", f"--user={getuser()}"], env={**os.environ, **found}, check=False)


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _running(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A daemon, ended at the end."""
    with (folder / f"{command[0]}.out").open("w") as output:
        daemon = subprocess.Popen(
            # Even if the tests are killed, nothing stays behind.
            ["setpriv", "--pdeathsig", "TERM", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C ends the tests, and they end it.
            start_new_session=True,
        )
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait(folder: Path, environment: dict[str, str]) -> None:
    """Wait until the node takes jobs."""
    until = time.monotonic() + PATIENCE
    command = ["sinfo", "--noheader", "--format=%T"]
    while True:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if said.stdout.strip() == "idle":
            return
        if time.monotonic() > until:
            logs = "".join(f"\n{log.name}:\n{log.read_text()[-1000:]}" for log in folder.glob("*.out"))
            raise NotAvailable(f"SLURM does not start here: {said.stdout}{said.stderr}{logs}")
        time.sleep(0.2)
