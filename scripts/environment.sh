# Sourced by the scripts beside it: builds the environment if need be and sets `root` and `python`.
# shellcheck shell=bash
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup"
python="${SFPP_VENV:-$root/.venv}/bin/python"
# The built-in models are small: beyond a few threads they only wait for each other.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    cores="$("$python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
    export OMP_NUM_THREADS="$((cores < 4 ? cores : 4))"
fi
