#!/bin/bash
# One allocation that works for a run started with `snakemake --profile profiles/allocations`:
#     sbatch profiles/allocations/work.sh                          in the run's working directory, as often as you like
#     sbatch --nodes=2 --time=2-0 profiles/allocations/work.sh     what stands here is sbatch's, and can be given there
#SBATCH --job-name=cgddi-work
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
# Jobs that share a GPU, where their memory fits together; and how long it stays without work.
RUNS_PER_GPU=${RUNS_PER_GPU:-1}
IDLE=${IDLE:-600}
PYTHON=${PYTHON:-$SLURM_SUBMIT_DIR/.venv/bin/python}

cd "$SLURM_SUBMIT_DIR" || exit 1
# A worker on each node; told to stop, it gives back what it has, which goes on from its checkpoints elsewhere.
srun --ntasks-per-node=1 --kill-on-bad-exit=0 \
    "$PYTHON" -m cgddi.cli work --runs-per-gpu "$RUNS_PER_GPU" --idle "$IDLE" &
trap 'scancel --signal=TERM "$SLURM_JOB_ID.0"' TERM
wait || wait
