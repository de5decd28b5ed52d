"""`sbatch`, `squeue` and `sacct` as Snakemake's SLURM executor calls them, made to outlast a cluster's bad hours.

The executor believes every answer: a refused submission is a failed attempt, a controller that does not answer has forgotten all
jobs, and a job that was preempted for good, or whose end nobody saw, is waited for for ever. So `install` puts commands of these
names before SLURM's own, for this run alone. Each runs this file, asks SLURM's command and hands on its answer, except that

1. sbatch waits and tries again where SLURM takes no more jobs now, and submits none twice whose answer was lost;
2. squeue tells the states of before where SLURM does not answer;
3. a job that was preempted or lost its node is put back into the queue under its number (`scontrol requeue`), and so is one that
   failed while the results could not be written; no end is told before they can;
4. a job that SLURM has forgotten has ended: how, the accounts tell, or else its results, which are whole or absent.

Between two questions it remembers, on this machine, the state last told of each job (`Jobs`). With the profile `allocations` the
same commands lay jobs into a pool and read it (`job.pool`). Runs as a file by itself, with nothing but the standard library.
"""

import atexit
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

TOOLS = ("sbatch", "squeue", "sacct", "scancel")
HERE = "CGDDI_SLURM_TOOLS"
"""Variable that names the folder of these commands."""
FOLDERS = "CGDDI_SLURM_FOLDERS"
"""Variable that names folders that jobs write to, separated by colons."""
WAIT = "CGDDI_SLURM_WAIT"
"""Variable: seconds for which a refused submission is tried again; a day where it is not set."""
LATER = re.compile(
    r"MaxSubmit|SubmitJobs?Limit|GrpSubmit|QOSGrp|unable to contact|timed out|connection (refused|failure|reset)|"
    r"zero bytes|temporarily|not responding|standby|transport endpoint|try again|communication|slurmdbd",
    re.IGNORECASE,
)
"""What SLURM says where the same submission may succeed later."""
UNSURE = re.compile(r"timed out|zero bytes|connection reset|communication", re.IGNORECASE)
"""What it says where the job may have been taken all the same."""
AGAIN = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")
"""Ends that are not the job's fault."""
FAILED = ("FAILED", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED")
GRACE = 60
"""Seconds that a job just submitted may be unknown to squeue."""


def install(*folders: str, held: bool = False) -> None:
    """Let this process, and all that it starts, find these commands before SLURM's own. Nothing where there is no SLURM.

    Args:
        folders: folders that jobs write to.
        held: whether jobs are run inside allocations that are held (see `job.pool`) instead of being queued one by one.
    """
    if shutil.which("sbatch") is None or os.environ.get(HERE, "") in os.environ["PATH"].split(":")[:1]:
        return
    place = Path(tempfile.mkdtemp(prefix="cgddi-slurm-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    for tool in TOOLS:
        command = f"exec {shlex.quote(sys.executable)} -S -E {shlex.quote(os.path.abspath(__file__))} {tool}"
        (place / tool).write_text(f'#!/bin/sh\n{command} "$@"\n')
        (place / tool).chmod(0o755)
    os.environ[HERE] = str(place)
    os.environ[FOLDERS] = ":".join(map(os.path.abspath, folders))
    if held:
        os.environ["CGDDI_POOL"] = os.path.abspath(".snakemake/pool")
    os.environ["PATH"] = f"{place}:{os.environ['PATH']}"


def refused_file(workdir, comment: str) -> Path:
    """Where it is noted why SLURM does not take a job for now; `comment` is the executor's name of the job."""
    return Path(workdir, ".snakemake", "slurm_refused", re.sub(r"[^\w.-]", "_", comment)[:200])


# ---- what follows runs in processes of its own


class Jobs:
    """The jobs of one run, as this machine knows them: number -> state as last told, and when it was submitted.

    They lie beside these commands, on this machine, since the run's own folder may be what cannot be written.
    """

    def __init__(self, run: str):
        self.path = Path(os.environ.get(HERE) or tempfile.gettempdir(), f"{re.sub(r'[^A-Za-z0-9_-]', '_', run)}.json")

    def read(self) -> dict:
        try:
            return json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}

    def update(self, **jobs) -> None:
        """Change jobs: number -> what is known of it."""
        import fcntl

        with open(self.path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.read()
            for number, facts in jobs.items():
                known[number] = {**known.get(number, {}), **facts}
            temporary = self.path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(known))
            temporary.replace(self.path)


def real(tool: str) -> str:
    """SLURM's own command of that name."""
    own = os.environ.get(HERE)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != own)
    return shutil.which(tool, path=path) or tool


def ask(tool: str, *words: str, seconds: float = 45, text=None) -> subprocess.CompletedProcess:
    """Run SLURM's own command; where it does not answer in time, that is a failure."""
    try:
        return subprocess.run([real(tool), *words], capture_output=True, text=True, timeout=seconds, input=text)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(tool, 1, "", f"{tool}: timed out: {error}")


def value(words, *options) -> str:
    """The value of an option among words, `--name X`, `--name=X` or `-n X`."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        for option in options:
            if word == option:
                return following
            if word.startswith(f"{option}="):
                return word[len(option) + 1 :]
    return ""


def sbatch(words) -> int:
    """Submit; where SLURM says that this may work later, wait and try again."""
    run, comment, workdir = value(words, "--job-name", "-J"), value(words, "--comment"), value(words, "-D", "--chdir")
    text = sys.stdin.read() if words and words[-1] == "/dev/stdin" else None
    jobs, note, parent = Jobs(run), refused_file(workdir or ".", comment), os.getppid()
    end, pause = time.monotonic() + float(os.environ.get(WAIT, 86400)), 5.0
    while True:
        done = ask("sbatch", *words, seconds=120, text=text)
        if done.returncode and UNSURE.search(done.stderr) and (number := _taken(run, comment, jobs)):
            done = subprocess.CompletedProcess(words, 0, f"{number}\n", "")
        if done.returncode == 0 or not LATER.search(done.stderr) or time.monotonic() > end:
            break
        with suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(" ".join(done.stderr.split()))
        time.sleep(pause)
        pause = min(60.0, pause * 1.5)
        if os.getppid() != parent:  # Snakemake has died: nobody waits for this job
            break
    with suppress(OSError):
        note.unlink(missing_ok=True)
    if done.returncode == 0 and (number := re.match(r"\d+", done.stdout)):
        jobs.update(**{number[0]: {"state": "PENDING", "at": time.time(), "comment": comment}})
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


def _taken(run: str, comment: str, jobs: Jobs) -> str | None:
    """Number of a job of this run and comment that SLURM has and nobody knows of: the answer to its submission was lost."""
    found = ask("squeue", "--noheader", "--states=all", f"--name={run}", "--format=%i|%k")
    known = jobs.read()
    rows = [line.split("|", 1) for line in found.stdout.splitlines() if "|" in line]
    return next((number for number, text in rows if text == comment and number not in known), None)


def states(run: str) -> dict:
    """Number -> state of a run's jobs, as Snakemake is to take them."""
    jobs = Jobs(run)
    known, now = jobs.read(), time.time()
    done = ask("squeue", "--noheader", "--states=all", f"--name={run}", "--format=%i|%T")
    if done.returncode:
        return {number: facts["state"] for number, facts in known.items()}
    told = dict(line.strip().split("|", 1) for line in done.stdout.splitlines() if "|" in line)
    folders = (os.getcwd(), *filter(os.path.isdir, os.environ.get(FOLDERS, "").split(":")))
    writable = all(os.access(folder, os.W_OK) for folder in folders)
    changed = {}
    for number, state in told.items():
        facts = known.get(number, {})
        if facts.get("final"):
            told[number] = facts["state"]
            continue
        if state in (*FAILED, "COMPLETED") and not writable:
            # Snakemake notes a job's end in its files' times: where it cannot, it dies with a traceback.
            changed[number] = {"held": state in FAILED}
            told[number] = "RUNNING"
        elif state in AGAIN or (state in FAILED and facts.get("held")):
            told[number] = _queued_again(number, state)
            changed[number] = {"held": False}
        final = told[number] in (*FAILED, "COMPLETED")
        changed[number] = {**changed.get(number, {}), "state": told[number], "final": final}
    for number, facts in known.items():
        if number in told or now - facts.get("at", 0) < GRACE:
            continue
        told[number] = facts["state"] if facts.get("final") else _accounted(number) or "COMPLETED"
        changed[number] = {"state": told[number], "final": told[number] != "RUNNING"}
    if changed:
        jobs.update(**changed)
    return told


def _queued_again(number: str, state: str) -> str:
    """Put a job back into the queue under its number; its state then. FAILED where SLURM does not allow it."""
    done = ask("scontrol", "requeue", number)
    if done.returncode == 0:
        return "PENDING"
    now = ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T").stdout.strip()
    return now if now and now not in (state, *AGAIN) else "FAILED"


def _accounted(number: str) -> str | None:
    """State of a job that squeue has forgotten, by the accounts, where the cluster keeps any."""
    done = ask("sacct", "-X", "--noheader", "--parsable2", "--format=State", "-j", number)
    state = (done.stdout.split() or [""])[0] if done.returncode == 0 else ""
    return state if state in (*FAILED, "COMPLETED", "RUNNING", "PENDING") else None


def pooled(tool: str, words, run: str):
    """Act as one of the commands where jobs are laid into a pool; None where the question is SLURM's."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import pool

    jobs = pool.Pool(os.environ[pool.POOL])
    if tool == "sbatch":
        command = sys.stdin.read() if words[-1] == "/dev/stdin" else value(words, "--wrap")
        comment, log = value(words, "--comment"), value(words, "--output")
        print(jobs.submit(comment, *pool.asked(words), command, log, run))
        return 0
    if tool == "scancel":
        jobs.cancel([word for word in words if word.isdigit()])
        return 0
    sys.stdout.write("".join(f"{number}|{state}\n" for number, state in jobs.states().items()))
    return 0


def main(tool: str, words) -> int:
    """Act as one of the commands."""
    own = (tool == "sbatch" and "--job-name" in words) or tool == "scancel" or value(words, "--name")
    if os.environ.get("CGDDI_POOL") and own:
        return pooled(tool, words, value(words, "--job-name", "--name"))
    if tool == "sbatch" and "--job-name" in words:
        return sbatch(words)
    run = value(words, "--name")
    if tool in ("squeue", "sacct") and run and ("--states=all" in words or tool == "sacct"):
        sys.stdout.write("".join(f"{number}|{state}\n" for number, state in states(run).items()))
        return 0
    os.execv(real(tool), [real(tool), *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
