"""One job of the test workflow: note that it ran, do as `plan/<name>` says, write the output whole.

usage: job.py NAME OUTPUT. The plan is `seconds SECONDS` or `memory MB`; the default is to finish at once.
`runs/<name>` gets a line for each start (SLURM job, what the site gave it), `work/<name>` a dot for each second worked in any
attempt, and `state/<name>` is the checkpoint: seconds done.
"""

import os
import sys
import time
from pathlib import Path

name, output = sys.argv[1], Path(sys.argv[2])
for folder in ("runs", "state", "work"):
    Path(folder).mkdir(exist_ok=True)
first = not Path(f"runs/{name}").exists()
with open(f"runs/{name}", "a") as log:
    facts = {"module": "SITE_MODULE", "tmp": "TMPDIR", "gpus": "CUDA_VISIBLE_DEVICES"}
    seen = " ".join(f"{word}={os.environ.get(name, '')}" for word, name in facts.items())
    log.write(f"{os.environ.get('SLURM_JOB_ID')} {seen}\n")
plan = Path(f"plan/{name}")
what, amount = plan.read_text().split() if plan.exists() else ("seconds", "0")
if what == "memory":
    ballast = b"x" * (int(amount) << 20)
    time.sleep(60 if first else 0)  # for SLURM to notice
else:
    state = Path(f"state/{name}")
    done = int(state.read_text()) if state.exists() else 0
    for second in range(done, int(amount)):
        time.sleep(1)
        with open(f"work/{name}", "a") as work:
            work.write(".")
        state.with_suffix(".tmp").write_text(str(second + 1))
        os.replace(state.with_suffix(".tmp"), state)
temporary = output.with_suffix(".tmp")
temporary.write_text(f"{name}\n")
os.replace(temporary, output)
