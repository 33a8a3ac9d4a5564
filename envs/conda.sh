#!/bin/sh
# Prints the conda environment of the pipeline, made from the lock: Snakemake copies such a file elsewhere
# before it uses it (--sdm conda), so that the packages must stand in it and not in a file beside it.
set -eu
cd "$(dirname "$0")"
cat <<'EOF'
# Made by `make lock` from requirements.txt. Used by `snakemake --sdm conda`, or by hand:
#   conda env create -f envs/conda.yaml && conda activate undue
# One environment for CPU and GPU; for the small CPU build of torch let pip look into PyTorch's CPU index as
# well (PIP_EXTRA_INDEX_URL). The library beside the Snakefile needs no installation.
name: undue
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - git
  - pip:
EOF
grep -v '^#' requirements.txt | sed "s/ *#.*//; s/.*/      - \"&\"/"
