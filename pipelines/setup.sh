#!/bin/sh
# What `make setup` does: the environment, the sample data and base checkpoints, the tracking store.
# Each step is skipped when it is done already, so a second call takes no time. Needs a network (or a local package
# index) for the packages only.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# 1. A virtual environment with Python 3.11 or newer
if ! .venv/bin/python -c '' 2>/dev/null; then
    found=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if new_enough "$candidate"; then found=$candidate; break; fi
    done
    [ -n "$found" ] || fail "ImageCap needs Python 3.11 or newer (found: $(${PYTHON:-python3} --version 2>&1 || true)); name one with \`make setup PYTHON=/path/to/python3.12\`"
    echo "setup: making .venv with $("$found" --version)"
    "$found" -m venv .venv || fail "$found cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
fi

# 2. The pinned packages, and this one in place
wanted="$(cat requirements.txt pyproject.toml | cksum) $(pwd)"
if [ "$(cat .venv/.imagecap 2>/dev/null || true)" != "$wanted" ]; then
    if [ "$(sed 's/ \/.*//' .venv/.imagecap 2>/dev/null || true)" != "${wanted%% /*}" ]; then
        echo "setup: installing the packages of requirements.txt (some minutes the first time)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 'setuptools>=77'
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    fi
    .venv/bin/python pipelines/relocate.py .venv
    echo "$wanted" > .venv/.imagecap
fi
PATH="$(pwd)/.venv/bin:$PATH"
export PATH

# 3. The identity that `dvc exp run` needs for its commits, and whether there is a git repository at all
sh pipelines/setup_git.sh

# 4. Sample data and base checkpoints, out of sampledata/dvcstore. A folder that is there is never touched, unless
#    it was this very step that was interrupted.
for name in data bases; do
    unfinished=.dvc/tmp/setup-$name
    [ -f "$name.dvc" ] || continue
    if [ ! -e "$name" ] || [ -e "$unfinished" ]; then
        md5=$(sed -n 's/^- md5: *//p' "$name.dvc")
        remote=
        [ -e "sampledata/dvcstore/files/md5/$(echo "$md5" | cut -c1-2)/$(echo "$md5" | cut -c3-)" ] && remote="--remote sample"
        echo "setup: bringing $name/"
        mkdir -p .dvc/tmp && : > "$unfinished"
        # shellcheck disable=SC2086  # two words or none
        dvc pull --quiet --force $remote "$name.dvc" || fail "$name/ cannot be brought; dvc says why above"
        rm -f "$unfinished"
    fi
done

# 5. The versions that dvc.yaml depends on, and the MLflow store: created once, updated when the checkout was moved,
#    with the link by which the `mlflow` commands find it
python -m imagecap.registry.versions
if [ ! -s mlruns/mlflow.db ] || [ ! -e mlflow.db ] || [ "$(cat mlruns/.root 2>/dev/null || true)" != "$(pwd -P)/mlruns" ]; then
    python -m imagecap.registry.store
fi
