"""A stand-in for ``cpg fit``: leaves behind what a run leaves in its folder, within milliseconds, or fails as it is told.

Options: --output FOLDER, --key KEY, --epochs N, --seconds of an epoch, --fail yes, --requeued yes, --deaf yes (to SIGINT and SIGTERM), --worker yes.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main():
    """Act as ``cpg fit``."""
    options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
    folder, key = Path(options["output"]), options.get("key", "a")
    epochs = int(options.get("epochs", 3))
    if options.get("deaf") == "yes":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.get("worker") == "yes":
        worker = subprocess.Popen(["sleep", "60"])

        def end(number, frame):
            """Note whether the worker was left to this process, and end it."""
            time.sleep(0.2)
            (folder / "worker.txt").write_text("ended by others" if worker.poll() else "ended by its run")
            worker.kill()
            sys.exit(1)

        signal.signal(signal.SIGINT, end)
    identity = folder / "experiment.json"
    if identity.exists() and json.loads(identity.read_text())["key"] != key:
        sys.exit(f"cpg: expected the experiment of {folder}, got another key\n(CPG_TRACEBACK=1 shows where)")
    if (folder / "summary.json").exists():
        sys.exit(0)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(exist_ok=True, parents=True)
    identity.write_text(json.dumps({"version": 1, "key": key, "seed": 0}))
    (folder / "config.yaml").write_text(f"trainer:\n  max_epochs: {epochs}\n  max_steps: -1\n")
    with (folder / "starts.txt").open("a") as starts:
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CPG_CORES")
        starts.write(json.dumps({"process": os.getpid(), **{name: os.environ.get(name) for name in names}}) + "\n")
    print("training", flush=True)
    if options.get("fail") == "yes":
        sys.exit("cpg: expected \x1b[1mdata[/bold], got none\n(CPG_TRACEBACK=1 shows where)")
    if options.get("requeued") == "yes":
        sys.exit(128 + signal.SIGUSR1)
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    metrics = folder / "metrics.csv"
    if not metrics.exists():
        metrics.write_text("epoch,step,train/loss,val/mIoU\n")
    for epoch in range(done, epochs):
        time.sleep(float(options.get("seconds", 0)))
        with metrics.open("a") as file:
            file.write(f"{epoch},{epoch * 10 + 5},0.5,\n{epoch},{epoch * 10 + 9},,{epoch / 10}\n")
        checkpoint.write_text(str(epoch + 1))
    (folder / "summary.json").write_text(json.dumps({"epochs": epochs, "best": {"mIoU": 0.6, "epoch": 1}}))


if __name__ == "__main__":  # pytest imports each file of this folder
    main()
