"""Make a folder ready to run again after its Snakemake was killed, or its results were copied, moved or unpacked.

Ends what a dead run left behind - its cluster jobs, its local jobs - and removes its lock. Then looks at every result: one whose
record holds the planned spec and the hashes of what it read and wrote is finished, whatever its times and whether or not anybody
watched its job end; any other is made again by the next `snakemake`, and what was half done goes on from its last checkpoint.
Refuses while a Snakemake is alive in the folder. Run it on the machine where Snakemake ran: one that is alive on another machine
cannot be seen.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.plan.config import DEFAULT_FILE, config_option
from cgddi.plan.sharing import owner

JOB_PREFIX = "cgddi_"
"""Cluster jobs are named `cgddi_<run id>` (slurm-jobname-prefix in profiles/slurm)."""


def _locks(folder: Path) -> list[Path]:
    return list((folder / ".snakemake" / "locks").glob("*.lock"))


def _users(folder: Path) -> set[int]:
    """This user, and whoever else has locked the folder."""
    users = {os.getuid()}
    for lock in _locks(folder):
        with suppress(OSError):
            users.add(lock.stat().st_uid)
    return users


def _others(users: Iterable[str]) -> str:
    """Names among users that are not this one's; empty where there are none."""
    return " and ".join(sorted(set(users) - {owner(f"/proc/{os.getpid()}"), str(os.getuid())}))


def _processes(folder: Path, users: Iterable[int]) -> Iterator[tuple[int, list[str]]]:
    """(pid, arguments) of users' processes that work in a folder, or that may, being another user's that does not say where."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if (user := entry.stat().st_uid) not in users:
                continue
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            try:
                here = Path(os.readlink(entry / "cwd")) == folder
            except PermissionError:
                here = user != os.getuid()
            if here:
                yield int(entry.name), words
        except OSError:
            continue


def controllers(folder: Path) -> list[int]:
    """Pids of the Snakemakes that steer a run in a folder, on this machine; not those that are one job of a run. Another user's
    counts where that user has locked the folder."""
    return [
        pid
        for pid, words in _processes(folder.resolve(), _users(folder))
        if any(Path(word).name == "snakemake" for word in words[:3]) and "--target-jobs" not in words
    ]


def orphans(folder: Path) -> list[int]:
    """Pids of this user's stage commands that a run started in a folder on this machine; call it when no controller is alive."""
    return [
        pid
        for pid, words in _processes(folder.resolve(), {os.getuid()})
        if "cgddi.cli" in words and any(a == "--spec" and "/.plan/" in b for a, b in pairwise(words))
    ]


def cluster_jobs(folder: Path) -> list[dict[str, str]]:
    """Cluster jobs that a run in a folder submitted, of this user and of whoever has locked it: id, user, state, SLURM's reason,
    rule and wildcards (`what`)."""
    if shutil.which("squeue") is None:
        return []
    users = ",".join(sorted(map(str, _users(folder))))
    command = ["squeue", f"--user={users}", "--noheader", "--format=%i|%u|%T|%r|%j|%k|%Z"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "configuration source" in done.stderr:
        return []  # SLURM's commands are installed, but this machine belongs to no cluster
    if done.returncode:
        raise UserError(f"squeue failed: {done.stderr.strip()} Try again when the cluster answers.")
    rows = [line.split("|", 6) for line in done.stdout.splitlines() if line.count("|") >= 6]
    return [
        {"id": number, "user": user, "state": state, "reason": reason, "what": comment}
        for number, user, state, reason, name, comment, place in rows
        if name.startswith(JOB_PREFIX) and Path(place).resolve() == folder.resolve()
    ]


def _gone(find, seconds: float = 90) -> bool:
    """Wait until `find` finds nothing."""
    end = time.monotonic() + seconds
    while find():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def repair(folder: Path) -> list[str]:
    """End what a dead run left behind in a folder and unlock it.

    Returns:
        What was done, in lines for the user.

    Raises:
        UserError: a Snakemake is alive in the folder, or what it left behind cannot be ended.
    """
    alive, others = controllers(folder), _others(owner(lock) for lock in _locks(folder))
    if alive:
        pids = ", ".join(map(str, alive))
        if others:
            raise UserError(
                f"{others} locked {folder}, and runs Snakemake here (pid {pids}). Wait for it, or have {others} stop it."
            )
        raise UserError(f"Snakemake is running in {folder} (pid {pids}). Stop it with Ctrl-C, or wait for it.")
    done = []
    jobs = cluster_jobs(folder)
    if others := _others(job["user"] for job in jobs):
        numbers = " ".join(job["id"] for job in jobs)
        raise UserError(
            f"Cluster jobs of {others}'s run go on here, and {others} alone may cancel them. Ask for `scancel {numbers}`, or wait."
        )
    if jobs:
        subprocess.run(["scancel", *(job["id"] for job in jobs)], check=False, timeout=120)
        if not _gone(lambda: cluster_jobs(folder)):
            left = ", ".join(job["id"] for job in cluster_jobs(folder))
            raise UserError(
                f"Cluster jobs {left} do not end. Cancel them (scancel {left}), then run `cgddi repair` again."
            )
        done.append(f"cancelled {len(jobs)} cluster job(s) of the dead run")
    processes = orphans(folder)
    for pid in processes:
        _signal(pid, signal.SIGTERM)
    if not _gone(lambda: orphans(folder), 20):
        for pid in orphans(folder):
            _signal(pid, signal.SIGKILL)
        _gone(lambda: orphans(folder), 20)
    if processes:
        done.append(f"ended {len(processes)} job(s) of the dead run on this machine")
    locks = _locks(folder)
    for lock in locks:
        lock.unlink(missing_ok=True)
    if locks:
        done.append("removed the lock")
    return done or ["nothing to repair"]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def main(argv: list[str]) -> int:
    """Repair the working directory."""
    parser = command_parser("repair", __doc__)
    config_option(parser)
    parser.set_defaults(configfile=None)
    parser.add_argument("--deep", action="store_true", help="read every byte of the results, large files too")
    args = parser.parse_args(argv)
    for line in repair(Path.cwd()):
        print(line)
    if args.configfile:
        print("\n".join(check_results(args.configfile, args.deep)))
    elif Path(DEFAULT_FILE).is_file():
        try:
            print("\n".join(check_results([DEFAULT_FILE], args.deep)))
        except UserError as error:  # the run that died may have had another config
            print(
                f"{DEFAULT_FILE} cannot be planned, so no results were checked: give --configfile. {str(error).splitlines()[0]}"
            )
    else:
        print(f"{DEFAULT_FILE} is not here, so no results were checked: give --configfile.")
    print("Start snakemake again with the same command: it makes what is missing or wrong, and nothing else.")
    return 0


def check_results(configfiles: Sequence[str], deep: bool = False) -> list[str]:
    """Check the results of a configuration in the working directory (see `verify`); what was found, in lines for the user."""
    from cgddi.watch.dag import ask_snakemake
    from cgddi.watch.verify import verify

    plan, found = ask_snakemake(configfiles, look=lambda dag, plan: verify(dag, plan, deep))
    lines = [f"{plan.paths.root}: {found.right} results are right, {found.returned} of which Snakemake did not know"]
    if found.wrong:
        lines.append(f"{sum(found.wrong.values())} will be made again:")
        lines += [f"  {count} {why}" for why, count in sorted(found.wrong.items())]
    if found.silent:
        lines.append(
            f"{sum(found.silent.values())} cannot be judged and are left as they are; delete them to have them made again:"
        )
        lines += [f"  {count} {why}" for why, count in sorted(found.silent.items())]
    if found.behind:
        lines.append(f"{found.behind} descend from these or from what is missing, and are left as they are")
    return lines
