#!/bin/bash
# sbatch bench/drivers/examples/slurm.sh SUITE: 16 processes, a GPU each, over one results folder. Put into the
# queue again after a pre-emption, or by hand, it goes on where it was.
#SBATCH --job-name=noisebench
#SBATCH --ntasks=16
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

# Where processes that train one model together meet: the first machine of the job, a port of its own.
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT

srun noisebench run "${1:?name a suite}" --results /shared/results --threads 8
