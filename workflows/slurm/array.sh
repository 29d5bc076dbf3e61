#!/bin/bash
# A job array: every job computes its part of a data set alone. Nothing but a shared file system is needed.
#
#   jobs=$(sbatch --parsable --array=1-32 workflows/slurm/array.sh 32 data/ --seeds skeleton)
#   sbatch --dependency=afterany:$jobs --wrap "geols-store finalize data/geols"
#
# The first argument is the number of parts; the others are those of geols-precompute. Jobs that ran out of time are
# submitted again with the same number of parts, for example --array=7,19: what is committed is not computed again.
#SBATCH --job-name=geols
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --output=geols-%A-%a.log
#SBATCH --requeue
set -euo pipefail
parts=$1
shift
# one process, no cluster: the job is the worker (geols-precompute --dry-run says how much memory and time it needs)
exec geols-precompute --workers 0 --part "$SLURM_ARRAY_TASK_ID/$parts" "$@"
