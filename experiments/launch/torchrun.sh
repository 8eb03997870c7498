#!/bin/sh
# One training by torchrun, a process a GPU:
#   experiments/launch/torchrun.sh --config experiments/base.yaml --config experiments/cityscapes.yaml ... --output runs/mine
# On one machine, `cpg fit` alone starts its processes too; torchrun is for several machines and for restarts.
#   PROCESSES   on each machine; by default its number of GPUs
#   NODES       number of machines; start the script on each
#   RENDEZVOUS  where they meet: name and free port of one of them, e.g. node0:29500
# Options of torchrun itself are set by its own variables, e.g. PET_MAX_RESTARTS=3: a restart goes on in the folder --output.
set -eu
processes=${PROCESSES:-$(python -c "import torch; print(torch.cuda.device_count())")}
nodes=${NODES:-1}
if [ "$processes" -eq 0 ]; then
  echo "expected a GPU, got none; on a CPU: PROCESSES=2 $0 ... --trainer.accelerator cpu --trainer.sync_batchnorm false" >&2
  exit 2
fi
exec python -m torch.distributed.run --nnodes "$nodes" --nproc-per-node "$processes" \
  --rdzv-backend c10d --rdzv-endpoint "${RENDEZVOUS:-localhost:0}" --rdzv-id cpg \
  -m cpg_lightning fit "$@" --trainer.devices "$processes" --trainer.num_nodes "$nodes"
