#!/bin/sh
# A step of the deployments in prefect.yaml, in the clone that the step before made: brings the data and the bases from
# the DVC remote. What DVC would note about this folder elsewhere on the machine stays in the folder, and goes with it.
set -eu
dvc config --local core.site_cache_dir "$(pwd)/.dvc/tmp/site"
dvc pull ./*.dvc
