# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two ranks on the CPU by gloo: the gradients and statistics of one process with the doubled batch."""

import copy
import inspect
import socket
import subprocess
import sys

import pytest
import torch
from conftest import TORCH, built, clean_environment, copy_mini_dataset, learned, run_clean, yolov8_dict
from torch import nn
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.dist import generate_ddp_file

from ultralytics_akconv import AKConv, write_checkpoint

pytestmark = pytest.mark.slow
TWO_RANKS = "self.world_size" in inspect.getsource(BaseTrainer.__init__)  # of the host's training can be run here

# One rank of two.
RANK = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

folder = Path(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
assert world == 2
results = {}
for name, case in torch.load(folder / "case.pt", weights_only=False).items():
    model, x, target = case["model"], case["x"].chunk(world)[rank], case["target"].chunk(world)[rank]
    for unused in (False, True):
        model.load_state_dict(case["state"])
        model.zero_grad(set_to_none=True)
        parallel = DistributedDataParallel(model, find_unused_parameters=unused)
        for _ in range(2):  # twice: the reducer must be ready for the next step
            model.zero_grad(set_to_none=True)
            ((parallel(x) - target) ** 2).mean().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results[name, unused] = {"gradients": gradients, "buffers": {n: b.clone() for n, b in model.named_buffers()}}
gathered = [None] * world
dist.all_gather_object(gathered, (rank, os.environ["GROUP_RANK"]))
if rank == 0:
    torch.save({"results": results, "ranks": gathered}, folder / "result.pt")
dist.barrier()
dist.destroy_process_group()
# The threads of gloo now and then abort an interpreter that is on its way out, with ordinary convolutions too. What the
# rank had to do is done and written, so it leaves without the interpreter's clean-up.
os._exit(0)
"""

# One rank of two that run the file which the host makes for its ranks: gloo and CPUs where the host has GPUs.
HOST_RANK = """
import os, runpy, sys
import torch
import torch.distributed as dist
from torch import nn
from ultralytics.engine.trainer import BaseTrainer

torch.set_num_threads(1)
dist.init_process_group("gloo")
host_init, host_parallel = BaseTrainer.__init__, nn.parallel.DistributedDataParallel
trainers, states = [], []


def state_of(trainer):
    assert isinstance(trainer.model, host_parallel)
    return {name: value.clone() for name, value in trainer.model.module.state_dict().items()}


def init(self, *args, **kwargs):
    host_init(self, *args, **kwargs)
    self.world_size = dist.get_world_size()  # the host counts GPUs
    self.add_callback("on_train_start", lambda trainer: states.append(state_of(trainer)))
    trainers.append(self)


BaseTrainer.__init__ = init
BaseTrainer._setup_ddp = lambda self: None  # the group is there
BaseTrainer.final_eval = lambda self: None  # its validator takes a GPU by its rank
nn.parallel.DistributedDataParallel = lambda model, device_ids, **options: host_parallel(model, **options)
runpy.run_path(sys.argv[1], run_name="__main__")
torch.save({"begin": states[0], "end": state_of(trainers[0])}, f"rank{dist.get_rank()}.pt")
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # as above
"""


def prepared(folder):
    """Write the cases for the ranks and return the gradients and buffers of one process with the whole batch.

    With statistics of its own, a rank normalises by its half of the batch. So either they are held fast, or the halves
    are alike, and their statistics those of the whole. (Statistics in common, SyncBatchNorm, torch has on GPUs only.)
    """
    cases, expected = {}, {}
    for name in ("frozen", "halves alike"):
        network = nn.Sequential(AKConv(3, 4, 5, 2, offset_lr=0.5), AKConv(4, 4, 3, shape="cross", border="clamp"))
        for layer in network.double():
            learned(layer).conv.bn.train(name != "frozen")
        x, target = torch.randn(4, 3, 9, 11).double(), torch.randn(4, 4, 5, 6).double()
        if name != "frozen":
            x, target = x[:2].repeat(2, 1, 1, 1), target[:2].repeat(2, 1, 1, 1)
        state = copy.deepcopy(network.state_dict())
        cases[name] = {"model": copy.deepcopy(network), "state": state, "x": x, "target": target}
        for _ in range(2):
            network.zero_grad(set_to_none=True)
            ((network(x) - target) ** 2).mean().backward()
        gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
        expected[name] = {"gradients": gradients, "buffers": dict(network.named_buffers())}
    torch.save(cases, folder / "case.pt")
    return expected


def launch(folder):
    """Run two ranks, in two agents of the launcher that act as two nodes."""
    script = folder / "rank.py"
    script.write_text(RANK, "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--nproc_per_node=1", "--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    agents = [[sys.executable, "-m", "torch.distributed.run", *where, f"--node_rank={rank}"] for rank in range(2)]
    environment = clean_environment(folder, GLOO_SOCKET_IFNAME="lo")
    running = [
        subprocess.Popen(
            [*agent, str(script), str(folder)], cwd=folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for agent in agents
    ]  # fmt: skip
    try:
        for process in running:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output
    finally:
        for process in running:
            process.kill()
    return torch.load(folder / "result.pt", weights_only=True)


def test_two_ranks_on_two_nodes_have_the_gradients_of_one_process_with_the_doubled_batch(tmp_path):
    expected = prepared(tmp_path)
    result = launch(tmp_path)
    assert sorted(group for _, group in result["ranks"]) == ["0", "1"]
    assert set(result["results"]) == {(name, unused) for name in expected for unused in (False, True)}
    for (name, _), found in result["results"].items():
        gradients, buffers = expected[name]["gradients"], expected[name]["buffers"]
        assert set(found["gradients"]) == set(gradients)
        for parameter, wanted in gradients.items():
            torch.testing.assert_close(found["gradients"][parameter], wanted, rtol=1e-9, atol=1e-9)
        for buffer, wanted in buffers.items():
            if "running_var" not in buffer:  # that is of n - 1 samples, and a rank has half of n
                torch.testing.assert_close(found["buffers"][buffer], wanted, rtol=1e-9, atol=1e-9)
        assert all(wanted.any() for parameter, wanted in gradients.items() if "p_conv" in parameter)


def test_the_conversion_to_sync_batch_norm_keeps_the_layer():
    layer = learned(AKConv(3, 4, 5, 2)).eval()
    x = torch.randn(2, 3, 9, 9)
    before = layer(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer).eval()  # torch 2.1 makes norms that train
    assert isinstance(converted.conv.bn, nn.SyncBatchNorm) and isinstance(converted, AKConv)
    assert list(converted.state_dict()) == list(AKConv(3, 4, 5, 2).state_dict())
    torch.testing.assert_close(converted(x), before, rtol=0, atol=0)


@pytest.mark.skipif(not TWO_RANKS, reason="this host counts GPUs late")
def test_two_ranks_of_the_hosts_file_convert_pretrained_weights_alike_and_train_in_step(tmp_path):
    pytest.importorskip("cloudpickle", reason="the host's distributed training needs it")
    if TORCH == (2, 2) and sys.version_info >= (3, 12):
        pytest.skip(f"torchrun --standalone of torch {torch.__version__} crashes on Python 3.12, whatever it runs")
    plain = write_checkpoint(built({**yolov8_dict(name=None), "nc": 3}), tmp_path / "plain.pt")
    overrides = {
        "model": "yolov8n-akconv.yaml", "pretrained": str(plain), "data": str(copy_mini_dataset(tmp_path)), "epochs": 2,
        "imgsz": 64, "batch": 8, "workers": 0, "plots": False, "device": "cpu", "amp": False,
        "nbs": 8, "warmup_epochs": 0,  # or 8.4.150 takes no step that changes a weight in three batches
        "project": str(tmp_path / "runs"), "name": "run", "exist_ok": True,
    }  # fmt: skip
    file = generate_ddp_file(DetectionTrainer(overrides=overrides))
    (tmp_path / "rank.py").write_text(HOST_RANK, "utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = run_clean(tmp_path, [*launcher, tmp_path / "rank.py", file], GLOO_SOCKET_IFNAME="lo")
    assert process.returncode == 0, process.stdout + process.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    converted = DetectionModel("yolov8n-akconv.yaml", nc=3, verbose=False)
    converted.load(YOLO(plain).model)
    for name, wanted in converted.state_dict().items():
        assert torch.equal(first["begin"][name], wanted) and torch.equal(second["begin"][name], wanted)
    trained = [
        name for name, _ in converted.named_parameters() if not torch.equal(first["end"][name], first["begin"][name])
    ]
    assert {f"model.{i}.p_conv.weight" for i in (1, 3, 5, 7, 16, 19)} <= set(trained)
    assert all(torch.equal(first["end"][name], second["end"][name]) for name, _ in converted.named_parameters())
