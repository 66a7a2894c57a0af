#!/usr/bin/env bash
# Make an environment for each rival, beside the one that is active: rivals.sh FOLDER
# They see the torch, torchvision and NumPy of the active environment, so that all sides compute with
# one build of them, and bring everything else themselves.
set -euo pipefail
folder=${1:?"usage: rivals.sh FOLDER"}
ours=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
make() {
  python -m venv "$folder/$1"
  site=$("$folder/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$ours" > "$site/shared.pth"
  "$folder/$1/bin/python" -m pip install -q --disable-pip-version-check "$2"
}
make eva 'kaiko-eva[vision]==0.4.5' # brings torchmetrics and MONAI too
make thunder 'thunder-bench==0.2.2'
# Of another CUDA version than torch, it stops transformers from being imported; THUNDER's
# segmentation does not use it.
"$folder/thunder/bin/python" -m pip uninstall -q -y torchaudio
