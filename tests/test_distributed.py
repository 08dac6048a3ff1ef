# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two ranks on the CPU by gloo: the gradients and statistics of one process with the doubled batch."""

import copy
import socket
import subprocess
import sys

import pytest
import torch
from conftest import clean_environment, learned
from torch import nn

from ultralytics_akconv import AKConv

pytestmark = pytest.mark.slow

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


def launch(folder, nodes):
    """Run two ranks, in one agent of the launcher or in two that act as two nodes."""
    script = folder / "rank.py"
    script.write_text(RANK, "utf-8")
    per_node = 2 // nodes
    common = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={per_node}"]
    environment = clean_environment(folder, GLOO_SOCKET_IFNAME="lo")
    if nodes == 1:
        agents = [[*common, "--standalone"]]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = [f"--nnodes={nodes}", "--master_addr=127.0.0.1", f"--master_port={port}"]
        agents = [[*common, *where, f"--node_rank={rank}"] for rank in range(nodes)]
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


@pytest.mark.parametrize("nodes", [1, 2])
def test_two_ranks_have_the_gradients_of_one_process_with_the_doubled_batch(tmp_path, nodes):
    expected = prepared(tmp_path)
    result = launch(tmp_path, nodes)
    assert sorted(group for _, group in result["ranks"]) == ["0", str(nodes - 1)]
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
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(converted.conv.bn, nn.SyncBatchNorm) and isinstance(converted, AKConv)
    assert list(converted.state_dict()) == list(AKConv(3, 4, 5, 2).state_dict())
    torch.testing.assert_close(converted(x), before, rtol=0, atol=0)
