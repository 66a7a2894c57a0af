#!/bin/bash
#SBATCH --job-name=pretrain
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@180
# Pretrain CMD-L on the GPUs of one node: sbatch slurm-pretrain.sh TILES RUN [more options].
# SLURM sends SIGTERM three minutes before the time limit. The same command resumes from the last
# checkpoint, so a job that is submitted again, manually or by the scheduler, continues the training.
set -euo pipefail

tiles=$1 out=$2
shift 2

export OMP_NUM_THREADS=1
srun torchrun --standalone --nproc-per-node "${SLURM_GPUS_ON_NODE:-8}" \
  -m bench pretrain --images "$tiles" --out "$out" --backbone cmd-l \
  --steps 80000 --batch-size 256 --workers 6 --save-every 500 --shard "$@"
