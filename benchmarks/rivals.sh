#!/usr/bin/env bash
# Create an environment for each package that is compared: rivals.sh FOLDER
# They use torch, torchvision and NumPy of the active environment, so that all compute with the same
# build.
set -euo pipefail
folder=${1:?"usage: rivals.sh FOLDER"}
ours=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
make() {
  python -m venv "$folder/$1"
  site=$("$folder/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$ours" > "$site/shared.pth"
  "$folder/$1/bin/python" -m pip install -q --disable-pip-version-check "$2"
}
make eva 'kaiko-eva[vision]==0.4.5' # with torchmetrics and MONAI
make thunder 'thunder-bench==0.2.2'
# Built for another CUDA version than torch, it breaks the import of transformers. THUNDER's
# segmentation does not use it.
"$folder/thunder/bin/python" -m pip uninstall -q -y torchaudio
