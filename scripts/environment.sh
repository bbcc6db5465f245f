# Sourced by the scripts beside it: builds the environment if need be and sets `root` and `python`.
# shellcheck shell=bash
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Relative to where the script was called, wherever it goes from here.
for variable in SFPP_VENV COMFYUI_DIR; do
    case "${!variable:-}" in
        "" | /*) ;;
        *) export "$variable=$PWD/${!variable}" ;;
    esac
done

"$root/scripts/setup"
python="${SFPP_VENV:-$root/.venv}/bin/python"

# The built-in models are small: beyond a few threads they only wait for each other.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    OMP_NUM_THREADS="$("$python" -c 'import os; print(min(os.cpu_count() or 1, 4))')"
    export OMP_NUM_THREADS
fi
