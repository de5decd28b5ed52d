"""Accounts for the test cluster: mariadb and slurmdbd, with a quality of service that lets a user submit few jobs at a time."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.slurm import CONFIG, MARK, NoCluster, Slurm, free_port, install_packages

TOOLS = ("mariadbd", "mariadb-install-db", "mariadb", "slurmdbd", "sacctmgr")
SETTINGS = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={munge}
AccountingStorageEnforce=associations,limits,qos
"""


def _answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@contextmanager
def accounts(cluster: Slurm, user: str, most: int) -> Iterator[None]:
    """Let a running cluster keep accounts in which a user may have only so many jobs submitted at a time.

    Args:
        cluster: restarted with accounts, and in the end without.
        user: its jobs are limited.
        most: jobs of that user that wait or run.

    Raises:
        NoCluster: the packages cannot be installed, or do not start; the text says why.
    """
    install_packages(TOOLS, "slurmdbd", "mariadb-server-core", "mariadb-client-core")
    folder, port, database = cluster.folder / "accounts", free_port(), free_port()
    (folder / "data").mkdir(parents=True)
    socket, config = folder / "mariadb.sock", CONFIG / "slurm.conf"
    without = config.read_text()
    options = ["--no-defaults", f"--datadir={folder}/data", "--user=root"]
    install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(install, check=True, capture_output=True)
    try:
        where = [f"--socket={socket}", f"--port={database}", "--bind-address=127.0.0.1", f"--pid-file={folder}/pid"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--innodb-log-file-size=16M"]
        cluster.launch("mariadbd", "mariadbd", *options, *where, *small)
        ask = ["mariadb", "--no-defaults", f"--socket={socket}", "--user=root", "--execute"]
        cluster.wait(lambda: _answers(*ask, "select 1"), "mariadbd did not start")
        grant = "create user slurm@'127.0.0.1' identified by 'slurm'; grant all on *.* to slurm@'127.0.0.1'"
        subprocess.run([*ask, grant], check=True, capture_output=True)
        (CONFIG / "slurmdbd.conf").write_text(
            f"{MARK}AuthType=auth/munge\nAuthInfo=socket={cluster.folder}/munge/munge.socket\nDbdHost=localhost\n"
            f"DbdAddr=127.0.0.1\nDbdPort={port}\nSlurmUser=root\nLogFile={cluster.folder}/log/slurmdbd.log\n"
            f"PidFile={folder}/slurmdbd.pid\nStorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
            f"StoragePort={database}\nStorageUser=slurm\nStoragePass=slurm\n"
        )
        (CONFIG / "slurmdbd.conf").chmod(0o600)
        cluster.launch("slurmdbd", "slurmdbd", "-D")
        cluster.stop_controller()
        config.write_text(without + SETTINGS.format(port=port, munge=f"{cluster.folder}/munge/munge.socket"))
        manage = ["sacctmgr", "--immediate"]
        cluster.wait(lambda: _answers(*manage, "list", "cluster"), "slurmdbd did not start")
        for words in (
            "add cluster cgddi-test",
            f"modify qos normal set MaxSubmitJobsPerUser={most}",
            "add account lab",
            f"add user {user} account=lab",
        ):
            done = subprocess.run([*manage, *words.split()], capture_output=True, text=True)
            if done.returncode:
                raise NoCluster(f"sacctmgr {words}: {done.stdout} {done.stderr}")
        cluster.start_controller()
        cluster.wait(lambda: set(cluster.states().values()) == {"IDLE"}, "the cluster does not come back with accounts")
        yield
    finally:
        if "slurmctld" in cluster.daemons:
            cluster.stop_controller()
        for name in ("slurmdbd", "mariadbd"):
            cluster.end(name)
        (CONFIG / "slurmdbd.conf").unlink(missing_ok=True)
        config.write_text(without)
        cluster.start_controller()
        shutil.rmtree(folder, ignore_errors=True)
        cluster.wait(
            lambda: set(cluster.states().values()) == {"IDLE"}, "the cluster does not come back without accounts"
        )
