#!/bin/sh
# A step of `make setup`, in the root of the checkout. `dvc exp run` commits, so the checkout needs an identity. A ZIP
# download has no git repository, which DVC must be told. A git that refuses the repository (of another owner, or damaged)
# is no reason to do without it: then the setup stops with git's own sentence.
set -eu
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_NAMESPACE GIT_PREFIX
above=$(pwd -P)
while [ ! -e "$above/.git" ] && [ "$above" != / ]; do above=$(dirname "$above"); done
no_scm=$(sed -n 's/^ *no_scm *= *//p' .dvc/config.local 2>/dev/null || true)
if [ -e "$above/.git" ]; then
    if command -v git >/dev/null 2>&1; then
        said=$(git rev-parse --git-dir 2>&1) || {
            echo "error: git cannot read the repository $above: $said" >&2
            exit 2
        }
        git config user.email >/dev/null || git config --local user.email imagecap@localhost
        git config user.name >/dev/null || git config --local user.name ImageCap
    else
        echo "setup: git is not installed; runs and versions will not record the commit" >&2
    fi
    if [ -n "$no_scm" ]; then
        echo "setup: there is a git repository now, so core.no_scm is removed from .dvc/config.local"
        dvc config --local --unset core.no_scm
    fi
elif [ -z "$no_scm" ]; then
    dvc config --local core.no_scm true
fi
